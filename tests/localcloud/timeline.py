"""Things that happen later: one thread that sleeps until the next due time, and workers for what may block."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WORKERS = 64  # more callbacks than this at once wait their turn; each is an event delivery or a power change


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Timeline:
    def __init__(self, report: Callable[[str], None]):
        self.report = report
        self.queue: list[tuple[float, int, Handle, Callable[[], Any]]] = []
        self.order = itertools.count()  # equal times run in the order they were added
        self.wake = threading.Condition()
        self.workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="timeline")
        self.closed = False
        threading.Thread(target=self._run, name="timeline", daemon=True).start()

    def after(self, seconds: float, call: Callable[[], Any]) -> Handle:
        handle = Handle()
        if seconds <= 0:
            self._submit(handle, call)
            return handle
        with self.wake:
            heapq.heappush(self.queue, (time.monotonic() + seconds, next(self.order), handle, call))
            self.wake.notify()
        return handle

    def close(self) -> None:
        with self.wake:
            self.closed = True
            self.queue.clear()
            self.wake.notify()
        self.workers.shutdown(wait=False, cancel_futures=True)

    def _submit(self, handle: Handle, call: Callable[[], Any]) -> None:
        def guarded() -> None:
            try:
                if not handle.cancelled:
                    call()
            except Exception as error:  # a lost callback must not be silent
                self.report(f"{call!r} failed: {error!r}")

        if not self.closed:
            try:
                self.workers.submit(guarded)
            except RuntimeError:
                pass  # closed between the check and here

    def _run(self) -> None:
        with self.wake:
            while not self.closed:
                now = time.monotonic()
                while self.queue and self.queue[0][0] <= now:
                    _, _, handle, call = heapq.heappop(self.queue)
                    self._submit(handle, call)
                self.wake.wait(self.queue[0][0] - now if self.queue else None)
