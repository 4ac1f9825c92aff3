"""TCP through a line that takes its time: what goes in at one end comes out at the other so much later, in order, and, where it
has a rate, no faster than that.

A process of its own, which sleeps until shortly before a piece is due and then looks at the clock: a sleep alone is late by as
much as is to be measured."""

from __future__ import annotations

import multiprocessing
import select
import socket
import time
from collections import deque

SPIN_S = 0.0002  # before a piece is due
PIECE = 1 << 16
HELD = 1 << 20  # bytes that a line with a rate holds; more wait with who sends them


class DelayLine:
    def __init__(self, to: int, one_way_s: float = 0.0, bytes_s: float | None = None):
        """`to`: a port of this machine. `bytes_s`: each way."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._process = multiprocessing.get_context("fork").Process(target=_carry, args=(self._listener, to, one_way_s, bytes_s), daemon=True)

    def __enter__(self) -> DelayLine:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._listener.close()


def _carry(listener: socket.socket, to: int, one_way_s: float, bytes_s: float | None) -> None:
    heard = {listener.fileno()}
    ends: dict[int, tuple[socket.socket, socket.socket]] = {}  # by what is read: it, and where that goes
    under_way: deque[tuple[float, int, bytes]] = deque()
    free: dict[int, float] = {}  # when the line has room again, each way
    held = 0
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic() - SPIN_S) if under_way else None
        # Not epoll, which counts in milliseconds.
        full = held > HELD and bytes_s is not None
        for number in select.select([] if full else heard, [], [], wait)[0]:
            if number == listener.fileno():
                here, there = listener.accept()[0], socket.socket()
                if there.connect_ex(("127.0.0.1", to)) != 0:
                    here.close()
                    continue
                for one, other in ((here, there), (there, here)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    ends[one.fileno()] = (one, other)
                    heard.add(one.fileno())
            elif number in ends:
                try:
                    piece = ends[number][0].recv(PIECE)
                except OSError:
                    piece = b""
                free[number] = max(free.get(number, 0.0), time.monotonic()) + (len(piece) / bytes_s if bytes_s else 0.0)
                under_way.append((free[number] + one_way_s, number, piece))
                held += len(piece)
                if not piece:
                    heard.discard(number)
        # Of two ways with a rate one may be due before the other's first.
        while due := next((one for one in under_way if one[0] <= time.monotonic()), None):
            under_way.remove(due)
            _, number, piece = due
            held -= len(piece)
            there = ends[number][1]
            try:
                if piece:
                    there.sendall(piece)
                else:
                    there.shutdown(socket.SHUT_WR)
            except OSError:  # that end is gone
                pass
