"""Fixtures: what guests boot, made once; a guest for a file's stories; what took long, told at the end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import guest as machine
from . import image as images
from .guest import Guest

_took: list[tuple[float, str]] = []

Image = tuple[Path, Path, Path]


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lhg-", dir="/var/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def image(folder: Path) -> Image:
    assert images.BINARY.exists(), f"{images.BINARY} is missing: make guest-test builds it"
    return images.build(folder)


@pytest.fixture(scope="session")
def accel(image: Image, folder: Path) -> str:
    found = machine.accelerator(image, folder)
    print(f"\nguests run by {found}")
    return found


@pytest.fixture(scope="module")
def guest(folder: Path, image: Image, accel: str) -> Iterator[Guest]:
    """One for all stories of a file: each leaves it without a server and without a device."""
    booted = Guest(folder, image, accel, number=1)
    _took.append((booted.boot_s, "boot"))
    try:
        yield booted
    finally:
        booted.kill()


@pytest.fixture
def boot(folder: Path, image: Image, accel: str) -> Iterator[Callable[..., Guest]]:
    booted: list[Guest] = []

    def start(**how: object) -> Guest:
        booted.append(Guest(folder, image, accel, **how))  # type: ignore[arg-type]
        _took.append((booted[-1].boot_s, "boot"))
        return booted[-1]

    yield start
    for one in booted:
        one.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    began = time.monotonic()
    try:
        return (yield)
    finally:
        _took.append((time.monotonic() - began, item.name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for seconds, what in sorted(_took, reverse=True):
        terminalreporter.write_line(f"{seconds:6.1f} s  {what}")
