"""Each mistake of a client has the answer that the specification names, and the next client is served."""

import os
import struct

import pytest

from . import wire
from .server import Server, libnbd, run
from .wire import Wire, named, option, request

SIZE = 64 << 20


def test_errors_that_the_specification_names(server):
    libnbd(
        server.uri(),
        f"""
        size = {SIZE}
        for at, count in [(size, 1), (size - 1, 2), (2**63, 4096)]:
            fails("ENOSPC", h.pwrite, bytes(count), at)
            fails("ENOSPC", h.zero, count, at)
            fails("EINVAL", h.pread, count, at)
            fails("EINVAL", h.trim, count, at)
            fails("EINVAL", h.cache, count, at)
            fails("EINVAL", h.block_status, count, at, lambda *_: 0)
        fails("EINVAL", h.pread, 4096, 0, flags=nbd.CMD_FLAG_NO_HOLE)
        fails("EINVAL", h.pwrite, bytes(4096), 0, flags=nbd.CMD_FLAG_DF)
        fails("EINVAL", h.trim, 4096, 0, flags=nbd.CMD_FLAG_FAST_ZERO)
        fails("EOVERFLOW", h.pread, (32 << 20) + 1, 0)
        fails("EINVAL", h.pwrite, bytes((32 << 20) + 1), 0)
        # Not even aligned: it is served.
        h.pwrite(b"still here", size - 10)
        assert h.pread(10, size - 10) == b"still here"
        # Longer than any payload: nothing wrong with it.
        h.zero(size, 0)
        h.trim(size, 0)
        """,
    )


def test_without_a_context_there_is_no_status(server):
    libnbd(server.uri(), """fails("EINVAL", h.block_status, 4096, 0, lambda *_: 0)""", contexts=())


def test_read_only(folder, engine):
    with Server(folder, engine=engine, args=("--read-only",)) as server:
        libnbd(
            server.uri(),
            """
            assert h.is_read_only() and not h.can_trim() and not h.can_zero()
            fails("EPERM", h.pwrite, bytes(4096), 0)
            fails("EPERM", h.trim, 4096, 0)
            fails("EPERM", h.zero, 4096, 0)
            assert h.pread(4096, 0) == bytes(4096)
            h.flush()
            """,
        )


def test_fua_is_legal_on_everything(server):
    """And unknown commands and flags are errors, not the end of the connection."""
    client = Wire(server.connect()).go()
    for kind, length in [(wire.READ, 512), (wire.FLUSH, 0), (wire.TRIM, 512), (wire.CACHE, 512), (wire.WRITE_ZEROES, 512)]:
        client.send(request(kind, cookie=kind + 7, length=length, flags=wire.FUA))
        assert client.simple() == (kind + 7, 0)
        if kind == wire.READ:
            client.take(length)
    client.send(request(wire.WRITE, length=3, data=b"abc", flags=wire.FUA))
    assert client.simple() == (1, 0)
    for bad in (request(99), request(wire.BLOCK_STATUS, length=512), request(wire.READ, length=512, flags=wire.DF), request(wire.FLUSH, length=1), request(wire.READ, length=512, flags=1 << 15)):
        client.send(bad)
        assert client.simple() == (1, wire.EINVAL)
    client.send(request(wire.WRITE, length=5000, flags=wire.DF, data=b"x" * 5000) + request(wire.READ, cookie=2, length=3))
    assert client.simple() == (1, wire.EINVAL)
    assert client.simple() == (2, 0) and client.take(3) == b"abc"
    for empty in (wire.READ, wire.WRITE, wire.TRIM, wire.CACHE, wire.WRITE_ZEROES):
        client.send(request(empty, cookie=3, at=SIZE))
        assert client.simple() == (3, 0), "of no length: nothing to do"


@pytest.mark.parametrize("flags", [1, 3])
def test_export_name(server, flags):
    client = Wire(server.connect(), flags)
    client.send(option(wire.EXPORT_NAME))
    size, can = struct.unpack(">QH", client.take(10))
    assert size == SIZE and can & 1
    if flags == 1:
        assert client.take(124) == bytes(124)
    client.send(request(wire.READ, length=10))
    assert client.simple() == (1, 0) and client.take(10) == bytes(10)


@pytest.mark.parametrize("length", [256, 257, 4096, 4097, 40_000, 0xFFFFFFFF])
def test_names_of_every_length(server, length):
    """CVE-2017-15118."""
    data = b"n" * min(length, 100_000)
    client = Wire(server.connect())
    client.send(option(wire.EXPORT_NAME, data[:5000], length=length))
    assert client.is_closed()
    for number in (wire.INFO, wire.GO):
        client = Wire(server.connect())
        if length == 0xFFFFFFFF:
            client.send(option(number, data[:100], length=length))
            assert client.is_closed()
            client = Wire(server.connect())
            assert client.ask(number, struct.pack(">I", length) + b"abc\0\0") == wire.INVALID
        else:
            assert client.ask(number, named(data)) == (wire.UNKNOWN if length <= 4096 else wire.TOO_BIG)
        client.go()
    assert server.is_well()


def test_lengths_that_lie(server):
    """CVE-2022-26495, CVE-2022-26496."""
    client = Wire(server.connect())
    for number in (wire.INFO, wire.GO):
        for data in (b"", b"\0" * 3, struct.pack(">I", 1) + b"\0\0", named(b"", b"\xff\xff"), named(b"", b"\0\1"), named(b"", b"\0\0\0")):
            assert client.ask(number, data) == wire.INVALID, data
    assert client.ask(wire.STRUCTURED_REPLY) == wire.ACK
    for number in (wire.LIST_META, wire.SET_META):
        for data in (b"", named(b"", b""), named(b"", b"\xff" * 4), named(b"", b"\0\0\0\1\xff\xff\xff\xff"), named(b"", b"\0\0\0\2\0\0\0\1x")):
            assert client.ask(number, data) == wire.INVALID, data
    client.go()


def test_options_in_the_wrong_order(server):
    """CVE-2019-14850 and -14851."""
    client = Wire(server.connect())
    assert client.ask(wire.SET_META, named(b"", b"\0\0\0\0")) == wire.INVALID
    assert client.ask(wire.STARTTLS) == wire.POLICY
    assert client.ask(1234, b"whatever") == wire.UNSUP
    assert client.ask(wire.STRUCTURED_REPLY) == wire.ACK
    client.go()
    # GO again is no request: the stream has lost its meaning.
    client.send(option(wire.GO, named(b"")) + bytes(12))
    assert client.is_closed()
    assert server.is_well()


def test_unknown_client_flags_and_bad_magic(server):
    assert Wire(server.connect(), flags=7).is_closed()
    client = Wire(server.connect())
    client.send(b"x" * 16)
    assert client.is_closed()
    client = Wire(server.connect()).go()
    client.send(b"x" * 28)
    assert client.is_closed()
    assert server.is_well()


def test_huge_lengths_take_no_memory(server):
    """CVE-2005-3534, CVE-2015-0847: what a header says is not what is allocated."""
    clients = []
    before = _memory_kb(server)
    for length in (0xFFFFFFFF, 0x80000000, (32 << 20) + 1):
        for _ in range(8):
            client = Wire(server.connect()).go()
            client.send(request(wire.WRITE, length=length, data=bytes(100_000)))
            clients.append(client)
    assert server.is_well()
    assert _memory_kb(server) - before < 20_000
    client = Wire(server.connect()).go()
    client.send(request(wire.WRITE, length=(32 << 20) + 1, data=bytes((32 << 20) + 1)) + request(wire.READ, cookie=2, length=1))
    assert client.simple() == (1, wire.EINVAL)
    assert client.simple() == (2, 0)


def test_replies_that_nobody_reads_are_bounded(server):
    """Requests of 8 GiB in all, from clients that read nothing: each connection stops being read at its limit."""
    before = _memory_kb(server)
    clients = [Wire(server.connect()).go() for _ in range(8)]
    for client in clients:
        client.connection.setblocking(False)
        for cookie in range(1024):
            try:
                client.connection.send(request(wire.READ, cookie=cookie, length=1 << 20))
            except BlockingIOError:
                break
    assert server.is_well()
    grown = _memory_kb(server) - before
    assert grown < (256 + 64 + 30) << 10, f"{grown} kB"


def test_garbage(server):
    """Whatever comes, the next client is served."""
    for _ in range(60):
        client = server.connect()
        client.sendall(os.urandom(200))
        client.close()
        client = Wire(server.connect())
        client.send(b"IHAVEOPT" + os.urandom(100))
        client.connection.close()
        client = Wire(server.connect()).go()
        client.send(b"\x25\x60\x95\x13" + os.urandom(200))
        client.connection.close()
    assert server.is_well()


def test_a_failing_disk_is_told(folder, engine):
    """A file that has lost its end: an error, with either kind of replies, and the connection lives on."""
    for structured in (True, False):
        with Server(folder, engine=engine) as server:
            os.truncate(server.backing, 4096)
            libnbd(
                server.uri(),
                """
                fails("EIO", h.pread, 4096, 1 << 20)
                assert h.pread(4096, 0) == bytes(4096)
                """,
                structured=structured,
            )
            os.truncate(server.backing, SIZE)


def test_no_space_is_told(folder):
    """A sparse file on a file system that is full."""
    mount = folder / "small"
    mount.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "none", mount)
    try:
        backing = mount / "backing"
        backing.touch()
        os.truncate(backing, SIZE)
        with Server(folder, backing=backing, args=("--buffered",)) as server:
            libnbd(server.uri(), """
                h.pwrite(bytes(4 << 20), 0)
                fails("ENOSPC", h.pwrite, bytes(16 << 20), 8 << 20)
                assert h.pread(4096, 0) == bytes(4096)
            """)  # fmt: skip
    finally:
        run("umount", mount)


def _memory_kb(server):
    assert server.process
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
