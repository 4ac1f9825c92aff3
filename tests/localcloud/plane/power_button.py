"""How a guest powers itself off or reboots at once, as by sysrq: one line, `reboot` or `off`, into the FIFO $LC_POWER.

A FIFO works without a network, from a shell, and ends with the run's directory.
"""

from __future__ import annotations

import os
import selectors
import threading
from pathlib import Path
from typing import Callable

WORDS = ("reboot", "off")


class PowerButtons:
    def __init__(self, directory: Path, pressed: Callable[[str, str], None], log: Callable[..., None]):
        self._directory = directory
        self._pressed = pressed
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._closed = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="power buttons", daemon=True)

    def open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._thread.start()

    def add(self, machine: str) -> Path:
        path = self._directory / machine
        if not path.exists():
            os.mkfifo(path, 0o622)
            # Read and write, so that it never ends when a writer closes it.
            self._selector.register(os.open(path, os.O_RDWR | os.O_NONBLOCK), selectors.EVENT_READ, machine)
            os.write(self._wake_write, b".")
        return path

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            os.write(self._wake_write, b".")

    def _listen(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select():
                words = os.read(key.fd, 4096).decode(errors="replace").split()
                for word in words if key.data else ():
                    if word in WORDS:
                        threading.Thread(target=self._pressed, args=(key.data, word), daemon=True).start()
                    else:
                        self._log("power button: unknown word", machine=key.data, word=word, known=WORDS)
