"""A small threaded HTTP/1.1 server: one thread per connection, blocking reads, one write per answer.

Not http.server or werkzeug's: those spend more time on a request's headers than moto does on a GetItem, and cannot leave
a request unanswered, which is what a lost answer looks like to an SDK.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

MAX_HEAD = 64 * 1024  # bytes of request line and headers; AWS's own limit is lower
MAX_BODY = 64 * 1024 * 1024  # a Lambda zip as a direct upload is at most 50 MB
CLONE_NEWNET = 0x40000000


@dataclass
class Request:
    method: str
    target: str  # as received: path and query, still percent-encoded
    headers: dict[str, str]  # names in lower case
    body: bytes
    peer: str  # the client's address
    connection: socket.socket | None = None

    @property
    def raw_path(self) -> str:
        return self.target.split("?", 1)[0]

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    @property
    def query_string(self) -> str:
        return self.target.partition("?")[2]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def client_gone(self) -> bool:
        """True when the client has closed its side: nobody would read an answer."""
        if self.connection is None:
            return False
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except OSError:
            return True


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    close: bool = False


class Reset(Exception):
    """The connection is to be reset without an answer: what a client sees when nothing listens any more."""


class BadRequest(Exception):
    pass


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


class _Reader:
    def __init__(self, sock: socket.socket):
        self.sock, self.buffer = sock, b""

    def until(self, mark: bytes, limit: int) -> bytes | None:
        while mark not in self.buffer:
            if len(self.buffer) > limit:
                raise BadRequest(f"more than {limit} bytes before {mark!r}")
            chunk = self.sock.recv(65536)
            if not chunk:
                return None
            self.buffer += chunk
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def exactly(self, size: int) -> bytes:
        if size > MAX_BODY:
            raise BadRequest(f"a body of {size} bytes; at most {MAX_BODY} are taken")
        parts, have = [self.buffer], len(self.buffer)
        while have < size:
            chunk = self.sock.recv(min(1 << 20, size - have))
            if not chunk:
                raise BadRequest("the client closed in the middle of a body")
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        self.buffer = data[size:]
        return data[:size]


def read_request(reader: _Reader, sock: socket.socket, peer: str) -> Request | None:
    head = reader.until(b"\r\n\r\n", MAX_HEAD)
    if head is None:
        return None
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, _version = lines[0].split(" ", 2)
    except ValueError:
        raise BadRequest(f"not an HTTP request line: {lines[0][:80]!r}") from None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        parts, total = [], 0
        while True:
            size_line = reader.until(b"\r\n", 1024)
            if size_line is None:
                raise BadRequest("the client closed in the middle of a chunked body")
            size = int(size_line.split(b";")[0].strip() or b"0", 16)
            if size == 0:
                while reader.until(b"\r\n", MAX_HEAD):  # trailers, up to the empty line
                    pass
                break
            total += size
            if total > MAX_BODY:
                raise BadRequest(f"a body of more than {MAX_BODY} bytes")
            parts.append(reader.exactly(size))
            reader.exactly(2)
        body = b"".join(parts)
        headers.pop("transfer-encoding")
        headers["content-length"] = str(len(body))
    else:
        body = reader.exactly(int(headers.get("content-length") or 0))
    if target.startswith("http://"):  # absolute form, as proxies' clients send it
        target = "/" + target[7:].partition("/")[2]
    return Request(method, target, headers, body, peer, sock)


def encode(response: Response, method: str, keep: bool) -> bytes:
    names = {name.lower() for name, _ in response.headers}
    lines = [f"HTTP/1.1 {response.status} {phrase(response.status)}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if "content-length" not in names and response.status not in (204, 304):
        lines.append(f"content-length: {len(response.body)}")
    if not keep:
        lines.append("connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return head if method == "HEAD" else head + response.body


class HttpServer:
    """Any number of listening sockets in front of one handler. The handler runs in the connection's thread."""

    def __init__(self, handler: Callable[[Request], Response], name: str, report: Callable[[str], None] = lambda text: None):
        self.handler, self.name, self.report = handler, name, report
        self.listeners: list[socket.socket] = []
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.closed = False

    def listen(self, address: str, port: int, netns: str | None = None) -> int:
        sock = listening_socket(address, port, netns)
        self.listeners.append(sock)
        threading.Thread(target=self._accept, args=(sock,), name=f"{self.name}-accept", daemon=True).start()
        return sock.getsockname()[1]

    def close(self) -> None:
        self.closed = True
        with self.lock:
            doomed = [*self.listeners, *self.connections]
        for sock in doomed:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock, peer[0]), name=f"{self.name}-conn", daemon=True).start()

    def _serve(self, sock: socket.socket, peer: str) -> None:
        with self.lock:
            self.connections.add(sock)
        reader = _Reader(sock)
        try:
            while not self.closed:
                try:
                    request = read_request(reader, sock, peer)
                except BadRequest as bad:
                    sock.sendall(encode(Response(400, str(bad).encode()), "GET", False))
                    return
                if request is None:
                    return
                try:
                    response = self.handler(request)
                except Reset:
                    # RST instead of FIN: the client's error is "connection reset", as from a host that went away.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                except Exception as error:  # a broken handler is answered, not hung up on; 501: SDKs do not retry it
                    response = Response(501, f"{self.name}: {error!r}".encode(), [("content-type", "text/plain")])
                    self.report(traceback.format_exc())
                keep = request.headers.get("connection", "").lower() != "close" and not response.close
                sock.sendall(encode(response, request.method, keep))
                if not keep:
                    return
        except OSError:
            pass  # the client went away; there is nobody to tell
        finally:
            with self.lock:
                self.connections.discard(sock)
            sock.close()


def listening_socket(address: str, port: int, netns: str | None = None) -> socket.socket:
    """A listening TCP socket, made inside the network namespace at path `netns` if one is given.

    A socket belongs for ever to the namespace it was made in, so a thread that enters the namespace, makes the socket
    and ends is all it takes: no link between that namespace and ours exists, and none can leak packets.
    """
    if netns is None:
        return _bind(address, port)
    result: list[socket.socket | BaseException] = []

    def enter_and_bind() -> None:
        try:
            fd = os.open(netns, os.O_RDONLY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, CLONE_NEWNET) != 0:
                    error = ctypes.get_errno()
                    raise OSError(error, f"setns({netns}): {os.strerror(error)}")
            finally:
                os.close(fd)
            result.append(_bind(address, port))
        except BaseException as error:  # handed to the caller's thread
            result.append(error)

    thread = threading.Thread(target=enter_and_bind, name="setns")
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _bind(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(256)
    return sock
