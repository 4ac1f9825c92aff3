"""NBD by hand, for what no proper client sends."""

from __future__ import annotations

import socket
import struct

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META, SET_META = 1, 2, 3, 5, 6, 7, 8, 9, 10
ACK = 1
UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, TOO_BIG = (0x80000000 + number for number in (1, 2, 3, 5, 6, 9))
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = (1 << bit for bit in range(5))
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108


def option(number: int, data: bytes = b"", length: int | None = None) -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data


def named(name: bytes, rest: bytes = b"\0\0") -> bytes:
    """The data of INFO and GO."""
    return struct.pack(">I", len(name)) + name + rest


def request(kind: int, cookie: int = 1, at: int = 0, length: int = 0, flags: int = 0, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, at, length) + data


class Wire:
    """A connection that does what it is told."""

    def __init__(self, connection: socket.socket, flags: int = 3):
        self.connection = connection
        assert self.take(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.send(struct.pack(">I", flags))

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.connection.recv(length - len(data))
            if not more:
                raise EOFError(f"closed after {data!r}")
            data += more
        return data

    def reply(self) -> tuple[int, int, bytes]:
        """(option, kind, data)"""
        magic, number, kind, length = struct.unpack(">QIII", self.take(20))
        assert magic == 0x3E889045565A9
        return number, kind, self.take(length)

    def ask(self, number: int, data: bytes = b"") -> int:
        """The kind of the last reply to an option."""
        self.send(option(number, data))
        while True:
            answered, kind, _ = self.reply()
            assert answered == number
            if kind == ACK or kind >= 0x80000000:
                return kind

    def go(self) -> Wire:
        assert self.ask(GO, named(b"")) == ACK
        return self

    def simple(self) -> tuple[int, int]:
        """(cookie, error) of a simple reply; its data, if any, is the caller's to take."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == 0x67446698
        return cookie, error

    def is_closed(self) -> bool:
        """The server has closed. Waits for it."""
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True
