"""What the person sees: one line per step with its elapsed time, and, on a terminal, a live line below it.

Nothing scrolls away that matters: the live line is replaced, finished lines stay. Plain when not a terminal; colour is only a
second signal and off with NO_COLOR.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterator

REFRESH_S = 0.1
NAME_WIDTH = 10
MAX_WIDTH = 118
MIN_WIDTH = 72

GREEN, RED, DIM, BOLD = "32", "31", "2", "1"


class Screen:
    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.coloured = self.terminal and "NO_COLOR" not in os.environ
        self._lock = threading.Lock()
        self._live: Callable[[], str] | None = None
        self._drawn = False
        self._stopped = threading.Event()
        if self.terminal:
            threading.Thread(target=self._refresh, name="screen", daemon=True).start()

    @property
    def width(self) -> int:
        return max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((100, 24)).columns - 1))

    def line(self, text: str = "") -> None:
        with self._lock:
            self._erase()
            print(text, flush=True)

    def live(self, text: Callable[[], str] | None) -> None:
        """What the line below shows from now on; None: nothing. Without a terminal it is never drawn."""
        with self._lock:
            self._live = text
            self._erase()

    @contextmanager
    def step(self, name: str, doing: str) -> Iterator[list[str]]:
        """Shows `doing` with the time it takes; then one line with what the caller put into the list."""
        began = time.monotonic()
        before = self._live
        said: list[str] = []
        self.live(lambda: f"  {name:<{NAME_WIDTH}} {doing} {clock(time.monotonic() - began)}")
        try:
            yield said
        except BaseException:
            self.live(before)
            self.line(self._step_line(name, doing, "failed", RED, time.monotonic() - began))
            raise
        self.live(before)
        self.line(self._step_line(name, "; ".join(said) or doing, "ok", GREEN, time.monotonic() - began))

    def close(self) -> None:
        self.live(None)
        self._stopped.set()

    def colour(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.coloured else text

    def _step_line(self, name: str, text: str, verdict: str, code: str, seconds: float) -> str:
        room = self.width - NAME_WIDTH - 3 - 14
        shown = text if len(text) <= room else text[: room - 1] + "…"
        return f"  {self.colour(f'{name:<{NAME_WIDTH}}', BOLD)} {shown:<{room}} {self.colour(f'{verdict:>6}', code)} {clock(seconds):>6}"

    def _refresh(self) -> None:
        while not self._stopped.wait(REFRESH_S):
            with self._lock:
                if self._live is not None:
                    text = self._live()
                    self._erase()
                    sys.stdout.write(text[: self.width] + "\r")
                    sys.stdout.flush()
                    self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            sys.stdout.write("\x1b[2K\r")
            self._drawn = False


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def bytes_text(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def columns(cells: list[str], width: int, indent: int) -> list[str]:
    """Cells side by side as many as fit, each line aligned with the others."""
    if not cells:
        return []
    widest = max(len(cell) for cell in cells) + 3
    per_line = max(1, (width - indent) // widest)
    lines = []
    for start in range(0, len(cells), per_line):
        lines.append(" " * indent + "".join(f"{cell:<{widest}}" for cell in cells[start : start + per_line]).rstrip())
    return lines
