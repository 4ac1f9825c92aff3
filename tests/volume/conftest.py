"""Fixtures: a folder on a file system with O_DIRECT, certificates, and a server for each engine."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import certificates
from .replica import Replica
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


@pytest.fixture
def pair(folder: Path) -> Iterator[list[Replica]]:
    """Two replicas, neither running; nothing of them runs afterwards, not even what a story has stopped."""
    replicas = [Replica(folder, "a"), Replica(folder, "b")]
    try:
        yield replicas
    finally:
        for replica in replicas:
            if replica.process and replica.process.poll() is None:
                replica.process.send_signal(signal.SIGCONT)
                replica.kill()
