"""Fixtures: a folder on a file system with O_DIRECT, certificates, and a server for each engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import certificates
from .server import BINARY, Server


@pytest.fixture(scope="session", autouse=True)
def binary() -> None:
    assert BINARY.exists(), f"{BINARY} is missing: make test-volume builds it"


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short: a UNIX socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="lhv-", dir="/var/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def tls_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lhv-", dir="/var/tmp") as path:
        yield certificates.make(Path(path) / "tls")


@pytest.fixture(params=["uring", "threads"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(folder: Path, engine: str) -> Iterator[Server]:
    with Server(folder, engine=engine) as running:
        yield running
