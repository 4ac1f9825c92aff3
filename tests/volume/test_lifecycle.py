"""Who may connect, for how long, and how they part."""

import os
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from . import wire
from .server import BINARY, Server, libnbd, run, wait_until
from .wire import Wire, request


def _refused(*args):
    """The one line with which the server does not start."""
    done = subprocess.run([BINARY, "serve", *map(str, args)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0 and not done.stdout, done
    return done.stderr


def test_bad_input_is_told(folder, tls_folder):
    """Each with what to do."""
    backing = folder / "backing"
    backing.touch()
    here = ("--socket", folder / "s")
    assert "truncate --size=" in _refused("--backing", backing, *here)
    os.truncate(backing, (1 << 20) + 1)
    assert "no multiple of its block" in _refused("--backing", backing, *here)
    os.truncate(backing, 1 << 20)
    good = ("--backing", backing)
    assert "cannot be opened" in _refused("--backing", folder / "nothing", *here)
    assert "neither a file nor a block device" in _refused("--backing", folder, *here)
    assert "--socket" in _refused(*good)
    assert "10809" in _refused(*good, "--listen-nbd", "nonsense")
    assert "--insecure" in _refused(*good, "--listen-nbd", "0.0.0.0:0")
    assert "--tls-key" in _refused(*good, *here, "--tls-cert", tls_folder / "server-cert.pem")
    assert "cannot be read as PEM" in _refused(*good, *here, "--tls-cert", folder / "no", "--tls-key", tls_folder / "server-key.pem")
    assert "do not serve together" in _refused(*good, *here, "--tls-cert", tls_folder / "server-cert.pem", "--tls-key", tls_folder / "client-key.pem")
    assert "cannot listen" in _refused(*good, "--socket", folder / "no" / "such")
    assert "no socket" in _refused(*good, "--socket", backing)


def test_a_file_is_served_once(server, folder):
    assert "is in use" in _refused("--backing", server.backing, "--socket", folder / "other")
    assert server.is_well()


def test_a_socket_is_taken_over_only_from_the_dead(folder, server):
    other = folder / "other"
    other.touch()
    os.truncate(other, 1 << 20)
    assert "another server listens" in _refused("--backing", other, "--socket", server.socket)
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert server.socket.exists()
    with server:
        assert server.is_well()
    assert not server.socket.exists()


def test_only_the_owner_may_connect(server):
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600


def test_connections_are_limited(folder):
    with Server(folder, args=("--connections", "3")) as server:
        clients = [Wire(server.connect()).go() for _ in range(3)]
        assert server.connect().recv(1) == b"", "one too many"
        clients[0].connection.close()
        wait_until("a place is free", lambda: server.connect().recv(1) == b"N")
        clients[1].send(request(wire.FLUSH))
        assert clients[1].simple() == (1, 0)


def test_half_open_handshakes_end_and_disturb_nobody(server):
    """Slow loris: a client that never finishes is closed; until then others are served."""
    slow = [Wire(server.connect()) for _ in range(20)]
    for client in slow:
        client.send(b"IHAVE")
    assert server.is_well()
    began = time.monotonic()
    assert slow[0].is_closed()
    assert time.monotonic() - began < 20


def test_who_stands_still_amid_something_is_closed_and_who_is_idle_is_not(folder, engine):
    """Nobody holds memory for long: neither with half a request, nor byte by byte, nor by not reading replies."""
    with Server(folder, engine=engine, args=("--patience", "2")) as server:
        idle, half_header, half_payload, drip, deaf = (Wire(server.connect()).go() for _ in range(5))
        half_header.send(request(wire.FLUSH)[:20])
        half_payload.send(request(wire.WRITE, length=1 << 20, data=bytes(100_000)))
        drip.send(request(wire.WRITE, length=1 << 20))
        deaf.send(b"".join(request(wire.READ, cookie=cookie, length=1 << 20) for cookie in range(30)))
        began = time.monotonic()
        while time.monotonic() < began + 6:
            time.sleep(0.2)
            try:
                drip.send(b"x")
            except OSError:
                break
        else:
            raise AssertionError("a byte now and then is enough")
        # Patience may begin anew once: what else the client did meanwhile counts for it.
        time.sleep(max(0.0, began + 6 - time.monotonic()))
        for client in (half_header, half_payload, deaf):
            client.connection.settimeout(0.1)
        assert half_header.is_closed() and half_payload.is_closed()
        with pytest.raises(EOFError):
            deaf.take(30 << 20)
        idle.send(request(wire.FLUSH))
        assert idle.simple() == (1, 0)


@pytest.mark.parametrize("farewell", ["refuse", "hang-up"])
def test_stop_with_clients_in_every_state(folder, engine, farewell):
    """CVE-2024-7409."""
    with Server(folder, engine=engine, tcp=True, args=("--farewell", farewell)) as server:
        clients = [server.connect(), socket.create_connection(("localhost", server.port))]
        clients += [half := Wire(server.connect())]
        half.send(b"IHAVEOPT\0\0")
        clients += [Wire(server.connect()).go() for _ in range(4)]
        payload, reader = clients[-1], clients[-2]
        payload.send(request(wire.WRITE, length=1 << 20, data=bytes(1000)))
        reader.send(b"".join(request(wire.READ, cookie=cookie, length=1 << 20) for cookie in range(20)))
        began = time.monotonic()
        assert server.stop(limit_s=10) == 0
        assert time.monotonic() - began < 8
        for client in clients:
            getattr(client, "connection", client).close()


def test_refuse_tells_new_requests_and_serves_old_ones(folder, engine):
    with Server(folder, engine=engine) as server:
        client = Wire(server.connect()).go()
        client.send(request(wire.WRITE, length=4, data=b"abcd"))
        assert client.simple() == (1, 0)
        assert server.process
        server.process.terminate()
        wait_until("nobody new is let in", lambda: not server.socket.exists())
        # The listener is gone just before the connections are told.
        cookie, error = 2, 0
        while error == 0:
            client.send(request(wire.FLUSH, cookie=cookie))
            assert (answer := client.simple())[0] == cookie
            cookie, error = cookie + 1, answer[1]
        assert error == wire.ESHUTDOWN
        client.send(request(wire.WRITE, cookie=99, length=3, data=b"new"))
        assert client.simple() == (99, wire.ESHUTDOWN)
        client.send(request(wire.DISC))
        assert client.is_closed()
        assert server.stop() == 0


def test_hang_up_answers_with_no_error(folder, engine):
    """For a kernel that sends again what was not answered."""
    with Server(folder, engine=engine, args=("--farewell", "hang-up")) as server:
        client = Wire(server.connect()).go()
        client.send(request(wire.FLUSH))
        assert client.simple() == (1, 0)
        assert server.process
        server.process.terminate()
        assert client.is_closed()
        assert server.stop() == 0


def test_goodbye_finishes_what_is_outstanding(server):
    client = Wire(server.connect()).go()
    data = os.urandom(1 << 20)
    client.send(b"".join(request(wire.WRITE, cookie=place, at=place << 20, length=1 << 20, data=data) for place in range(8)) + request(wire.DISC))
    assert sorted(client.simple() for _ in range(8)) == [(place, 0) for place in range(8)]
    assert client.is_closed()
    with open(server.backing, "rb") as file:
        assert all(file.read(1 << 20) == data for _ in range(8))


def test_a_client_that_dies_amid_a_payload(server):
    client = Wire(server.connect()).go()
    client.send(request(wire.WRITE, length=1 << 20, data=b"x" * 500_000))
    client.connection.close()
    libnbd(server.uri(), "assert h.pread(1 << 20, 0) == bytes(1 << 20)")


def test_a_flush_covers_all_connections(server):
    """CAN_MULTI_CONN: what one connection wrote, another sees and flushes."""
    libnbd(
        server.uri(),
        """
        g = nbd.NBD()
        g.connect_uri(h.get_uri())
        h.pwrite(b"one" * 100, 5000)
        assert g.pread(300, 5000) == b"one" * 100
        g.flush()
        assert h.can_multi_conn() and g.can_multi_conn()
        """,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_flushed_is_there_afterwards(folder, engine, how):
    with Server(folder, engine=engine) as server:
        data = os.urandom(100_000)
        client = Wire(server.connect()).go()
        client.send(request(wire.WRITE, at=333, length=len(data), data=data, flags=wire.FUA))
        assert client.simple() == (1, 0)
        server.stop(how)
    with Server(folder, engine=engine) as server:
        client = Wire(server.connect()).go()
        client.send(request(wire.READ, at=333, length=len(data)))
        assert client.simple() == (1, 0)
        assert client.take(len(data)) == data


@pytest.fixture
def device(folder):
    """A block device of 32 MiB: a loop device, which passes writes on by O_DIRECT and has a cache that can be flushed."""
    image = folder / "image"
    image.touch()
    os.truncate(image, 32 << 20)
    path = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
    yield Path(path)
    run("losetup", "--detach", path)


def _flushes(device):
    """Flushes that the kernel has sent to a device (Documentation/block/stat.rst)."""
    return int(Path(f"/sys/block/{device.name}/stat").read_text().split()[15])


def test_flush_and_fua_reach_the_disk(folder, engine, device):
    """As the kernel counts them; and a plain write costs no flush."""
    with Server(folder, backing=device, engine=engine) as server:
        client = Wire(server.connect()).go()

        def flushes(*requests):
            before = _flushes(device)
            for one in requests:
                client.send(one)
                assert client.simple() == (1, 0)
            return _flushes(device) - before

        write = {"at": 8192, "length": 4096, "data": bytes(4096)}
        assert flushes(request(wire.WRITE, **write)) == 0
        assert flushes(request(wire.FLUSH)) >= 1
        assert flushes(request(wire.WRITE, **write, flags=wire.FUA)) >= 1
        assert flushes(request(wire.WRITE, at=100, length=3, data=b"abc", flags=wire.FUA)) >= 1, "a part of a block"
        assert flushes(request(wire.WRITE_ZEROES, at=8192, length=4096, flags=wire.FUA)) >= 1
        assert flushes(request(wire.TRIM, at=8192, length=4096, flags=wire.FUA)) >= 1


def test_a_block_device(folder, engine, device):
    """Sizes, trim and zeroes of a real one; and nobody else may have it."""
    with Server(folder, backing=device, engine=engine) as server:
        libnbd(
            server.uri(),
            """
            assert h.get_size() == 32 << 20
            data = os.urandom(1 << 20)
            h.pwrite(data, 12345, nbd.CMD_FLAG_FUA)
            assert h.pread(1 << 20, 12345) == data
            h.zero(65536, 1 << 16)
            h.zero(70000, 300001, nbd.CMD_FLAG_NO_HOLE)
            assert h.pread(65536, 1 << 16) == bytes(65536)
            assert h.pread(70000, 300001) == bytes(70000)
            assert h.pread(1, 300000) == data[300000 - 12345:][:1]
            h.trim(1 << 20, 1 << 20)
            h.flush()
            seen = []
            h.block_status(1 << 20, 0, lambda context, at, entries, error: seen.append(entries))
            assert seen == [[1 << 20, 0]], seen
            """,
        )
        assert "is in use" in _refused("--backing", device, "--socket", folder / "other")
    run("mkfs.ext4", "-q", device)
    mount = folder / "mnt"
    mount.mkdir()
    run("mount", device, mount)
    try:
        assert "mounted" in _refused("--backing", device, "--socket", folder / "other")
    finally:
        run("umount", mount)


def test_in_memory(folder):
    """A file system in memory: by O_DIRECT where the kernel has it there, through the page cache if asked."""
    for args in [(), ("--buffered",)]:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, Server(folder, backing=Path(memory) / "backing", args=args) as server:
            libnbd(server.uri(), "h.pwrite(b'x' * 70000, 7); assert h.pread(70000, 7) == b'x' * 70000; h.flush()")


def test_without_o_direct_it_says_so(folder):
    """ramfs has none; what is asked for is not done in another way unless that is asked for too."""
    mount = folder / "ram"
    mount.mkdir()
    run("mount", "-t", "ramfs", "none", mount)
    try:
        backing = mount / "backing"
        backing.touch()
        os.truncate(backing, 1 << 20)
        assert "--buffered" in _refused("--backing", backing, "--socket", folder / "s")
        with Server(folder, backing=backing, args=("--buffered",)) as server:
            libnbd(server.uri(), "h.pwrite(b'x' * 70000, 7); assert h.pread(70000, 7) == b'x' * 70000; h.flush()")
    finally:
        run("umount", mount)
