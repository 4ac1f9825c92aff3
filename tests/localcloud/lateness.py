"""How late this cloud was, by its own measure: one process that answers for all of AWS on two cores is late now and then.

Two things are measured, in wall-clock seconds as logs state them: requests that took long to answer, and stalls, times in
which the process did not get to run at all (a thread that sleeps 10 ms wakes much later). A test that finds a client complaining
of a late answer can so tell whose fault it was."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

LATE_S = 0.040  # what is faster is not worth a record: a GetItem takes 2 ms
SAMPLE_S = 0.010
KEPT = 20_000


class Lateness:
    def __init__(self) -> None:
        self.records: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._end = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._sample, name="lateness", daemon=True).start()

    def close(self) -> None:
        self._end.set()

    def took(self, what: str, seconds: float) -> None:
        """Something that ends now took so long."""
        if seconds >= LATE_S:
            end = time.time()
            self.records.append({"what": what, "start": end - seconds, "end": end})

    def since(self, start: float) -> list[dict[str, Any]]:
        return [one for one in list(self.records) if one["end"] >= start]

    def _sample(self) -> None:
        last = time.monotonic()
        while not self._end.wait(SAMPLE_S):
            now = time.monotonic()
            self.took("stall", now - last - SAMPLE_S)
            last = now
