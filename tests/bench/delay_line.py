"""TCP through a line that takes its time: what goes in at one end comes out at the other so much later, in order.

A process of its own, which sleeps until shortly before a piece is due and then looks at the clock: a sleep alone is late by as
much as is to be measured."""

from __future__ import annotations

from __future__ import annotations

import multiprocessing
import select
import socket
import time
from collections import deque

SPIN_S = 0.0002  # before a piece is due
PIECE = 1 << 20


class DelayLine:
    def __init__(self, to: int, one_way_s: float):
        """`to`: a port of this machine."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._process = multiprocessing.get_context("fork").Process(target=_carry, args=(self._listener, to, one_way_s), daemon=True)

    def __enter__(self) -> DelayLine:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._listener.close()


def _carry(listener: socket.socket, to: int, one_way_s: float) -> None:
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ends: dict[int, tuple[socket.socket, socket.socket]] = {}  # by what is read: it, and where that goes
    under_way: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic() - SPIN_S) if under_way else -1
        for number, _ in poll.poll(wait):
            if number == listener.fileno():
                here, there = listener.accept()[0], socket.create_connection(("127.0.0.1", to))
                for one, other in ((here, there), (there, here)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    ends[one.fileno()] = (one, other)
                    poll.register(one, select.EPOLLIN)
            elif number in ends:
                piece = ends[number][0].recv(PIECE)
                under_way.append((time.monotonic() + one_way_s, number, piece))
                if not piece:
                    poll.unregister(number)
        while under_way and under_way[0][0] <= time.monotonic():
            _, number, piece = under_way.popleft()
            there = ends[number][1]
            try:
                if piece:
                    there.sendall(piece)
                else:
                    there.shutdown(socket.SHUT_WR)
            except OSError:  # that end is gone
                pass
