"""TLS is required, or there is none; nothing of the clear survives into it."""

import socket
import ssl
import struct

import pytest

from . import certificates, wire
from .server import Server, libnbd, run
from .wire import Wire, named, option, request


@pytest.fixture
def server(folder, tls_folder):
    with Server(folder, tls=tls_folder) as running:
        yield running


def _context(tls_folder, version=None):
    context = ssl.create_default_context(cafile=tls_folder / "ca-cert.pem")
    context.load_cert_chain(tls_folder / "client-cert.pem", tls_folder / "client-key.pem")
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def test_before_tls_nothing_is_told(server):
    """CVE-2019-14842 and its like, from the server's side: no way around."""
    client = Wire(server.connect())
    for number, data in [(wire.LIST, b""), (wire.INFO, named(b"")), (wire.GO, named(b"")), (wire.STRUCTURED_REPLY, b""), (wire.SET_META, named(b"", b"\0" * 4)), (77, b"x")]:
        assert client.ask(number, data) == wire.TLS_REQD
    client.send(option(wire.EXPORT_NAME))
    assert client.is_closed()
    run("nbdinfo", server.uri("unix"), code=1)
    run("nbdinfo", f"nbd://localhost:{server.port}", code=1)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_each_version(server, tls_folder, version):
    client = Wire(socket.create_connection(("localhost", server.port)))
    assert client.ask(wire.STARTTLS) == wire.ACK
    client.connection = _context(tls_folder, version).wrap_socket(client.connection, server_hostname="localhost")
    assert client.ask(wire.STARTTLS) == wire.INVALID, "once is enough"
    client.go()
    client.send(request(wire.WRITE, length=5, data=b"hello"))
    assert client.simple() == (1, 0)
    client.send(request(wire.READ, cookie=2, length=5))
    assert client.simple() == (2, 0) and client.take(5) == b"hello"
    assert client.connection.version() == version.name.replace("_", ".")


def test_what_was_injected_in_the_clear_is_not_obeyed(server, tls_folder):
    """CVE-2021-3716."""
    client = Wire(server.connect())
    client.send(option(wire.STARTTLS) + option(wire.STRUCTURED_REPLY))
    assert client.reply()[1] == wire.ACK
    client.connection.settimeout(5)  # before any limit on handshakes: not even TLS is begun
    assert client.is_closed()


def test_what_was_agreed_in_the_clear_is_forgotten(server, tls_folder):
    client = Wire(server.connect())
    assert client.ask(wire.STRUCTURED_REPLY) == wire.TLS_REQD
    assert client.ask(wire.STARTTLS) == wire.ACK
    client.connection = _context(tls_folder).wrap_socket(client.connection, server_hostname="localhost")
    assert client.ask(wire.SET_META, named(b"", b"\0" * 4)) == wire.INVALID, "structured replies were not agreed inside"
    client.send(option(wire.GO, named(b"")))
    _, _, export = client.reply()
    assert struct.unpack(">HQH", export)[2] & (1 << 7) == 0, "no DF without structured replies"


def test_a_client_of_another_authority_is_turned_away(server, folder):
    other = certificates.make(folder / "other", "another")
    run("nbdinfo", f"nbds://localhost:{server.port}/?tls-certificates={other}", code=1)
    # Without any certificate too.
    client = Wire(socket.create_connection(("localhost", server.port)))
    assert client.ask(wire.STARTTLS) == wire.ACK
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, EOFError, OSError)):
        client.connection = context.wrap_socket(client.connection)
        client.go()
    assert "64" in run("nbdinfo", server.uri("tls"))


def test_large_and_many_over_tls(server):
    libnbd(
        server.uri("tls"),
        """
        data = os.urandom(32 << 20)
        h.pwrite(data, 100, nbd.CMD_FLAG_FUA)
        assert h.pread(32 << 20, 100) == data
        buffers = [nbd.Buffer(70_000) for _ in range(100)]
        cookies = {h.aio_pread(buffer, 1000 * place): place for place, buffer in enumerate(buffers)}
        while cookies:
            h.poll(-1)
            cookies = {cookie: place for cookie, place in cookies.items() if not h.aio_command_completed(cookie)}
        for place in range(1, 100):
            assert buffers[place].to_bytearray() == data[1000 * place - 100:][:70_000], place
        h.shutdown()
        """,
    )
