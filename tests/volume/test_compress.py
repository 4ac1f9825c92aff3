"""Data that shrink travel compressed where a link is told to: counted on the line itself, by who stands between."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .replica import Replica
from .server import BINARY, libnbd, run, wait_until
from .test_replication import are_equal

MIB = 1 << 20


class Line:
    """Between a leader and the replica that listens at `to`: counts what goes towards that one."""

    def __init__(self, to: int):
        self.to, self.bytes = to, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self.listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                here.close()
                continue
            for source, sink, counts in ((here, there, True), (there, here, False)):
                threading.Thread(target=self._carry, args=(source, sink, counts), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                self.bytes += len(data) if counts else 0
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def took(self) -> int:
        """Since the last time."""
        taken, self.bytes = self.bytes, 0
        return taken

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    made: list[Line] = []
    yield made
    for line in made:
        line.close()


def rows(length: int) -> bytes:
    """What a database's pages look like from afar."""
    return b"".join(b"row %08d of a table with a comment and a state\n" % number for number in range(length // 48 + 1))[:length]


def fill(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def write(folder: Path, replica: Replica, at: int, data: bytes) -> None:
    """As a client, 64 KiB at a time."""
    (folder / "payload").write_bytes(data)
    libnbd(replica.uri(), f"data = open({str(folder / 'payload')!r}, 'rb').read()\nfor at in range(0, len(data), 65536): h.pwrite(data[at:at + 65536], {at} + at)\nh.flush()")


def sent(replica: Replica) -> tuple[int, int]:
    status = replica.status()
    return status["sent_data_bytes"], status["sent_wire_bytes"]


def test_what_shrinks_travels_in_fewer_bytes_and_the_images_are_equal(folder, pair, lines):
    a, b = pair
    fill(a.backing, 0, rows(4 * MIB))
    b.follow()
    lines.append(line := Line(b.port))
    a.lead(line, args=("--compress", "lz4"))
    a.hears("in sync with")
    copied = line.took()
    assert 0 < copied < 2 * MIB, f"4 MiB that were copied took {copied} bytes"

    write(folder, a, 4 * MIB, rows(4 * MIB))
    written = line.took()
    assert 0 < written < 2 * MIB, f"4 MiB that were written took {written} bytes"

    noise = os.urandom(2 * MIB)
    write(folder, a, 8 * MIB, noise)
    assert len(noise) <= line.took() < len(noise) + MIB // 4, "what does not shrink travels as it is"
    wait_until("the counters", lambda: sent(a)[0] >= 10 * MIB)
    data, wire = sent(a)
    assert 2 * MIB <= wire < 6 * MIB, f"{data} bytes were sent as {wire}"

    assert b.end() == 0
    a.hears("out of sync with")
    write(folder, a, 10 * MIB, rows(4 * MIB))
    b.follow()
    a.hears("in sync with")
    resynced = line.took()
    # With what the ended process had acknowledged and may have lost, the noise too: fewer all the same than what it missed.
    assert 0 < resynced < 4 * MIB, f"4 MiB that were missed took {resynced} bytes"
    assert (a.end(), b.end()) == (0, 0)
    assert are_equal(a, b)
    assert a.backing.read_bytes()[8 * MIB : 14 * MIB] == noise + rows(4 * MIB)


def test_who_is_not_told_to_sends_data_as_they_are(folder, pair, lines):
    """Each side decides about what it sends: a leader that compresses nothing follows nobody's wish."""
    a, b = pair
    b.follow("--compress", "lz4")
    lines.append(line := Line(b.port))
    a.lead(line)
    a.hears("in sync with")
    line.took()
    write(folder, a, 0, rows(4 * MIB))
    assert line.took() >= 4 * MIB
    wait_until("the counters", lambda: sent(a) == (4 * MIB, 4 * MIB))
    assert (a.end(), b.end()) == (0, 0)
    assert are_equal(a, b)


def test_an_unknown_way_to_compress_is_told(pair):
    a, _ = pair
    told = run(BINARY, "serve", "--backing", a.backing, "--metadata", a.metadata, "--listen", "127.0.0.1:0", "--compress", "zip", code=2)
    assert "'zip'" in told and '"lz4"' in told and '"off"' in told
