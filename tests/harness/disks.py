"""Disks that fail and stand still when a test says so: nbdkit with its error and pause filters, as a file by nbdfuse."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path

READY_LIMIT_S = 10


class Disk:
    """`file` is what a node takes for its disk; `image` what is really there."""

    def __init__(self, folder: Path, size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.image, self.file = folder / "image", folder / "disk" / "nbd"
        self._control = folder / "pause"
        self._switches = {what: folder / f"fail-{what}" for what in ("pread", "pwrite")}
        with self.image.open("wb") as file:
            file.truncate(size)
        self.file.parent.mkdir()
        errors = [option for what, switch in self._switches.items()
                  for option in (f"error-{what}=EIO", f"error-{what}-rate=100%", f"error-{what}-file={switch}")]  # fmt: skip
        served = ["nbdkit", "--exit-with-parent", "--filter=error", "--filter=pause", "file", str(self.image), f"pause-control={self._control}", *errors]
        self._process = subprocess.Popen(["nbdfuse", str(self.file), "[", *served, "]"], start_new_session=True)
        until = time.monotonic() + READY_LIMIT_S
        while not self.file.exists():
            assert time.monotonic() < until and self._process.poll() is None, f"nbdfuse does not make {self.file}"
            time.sleep(0.05)

    def fail(self, *what: str) -> None:
        """`pread`, `pwrite`: each ends with an input/output error from now on."""
        for one in what:
            self._switches[one].touch()

    def stand_still(self) -> None:
        self._tell("p", "P")

    def heal(self) -> None:
        for switch in self._switches.values():
            switch.unlink(missing_ok=True)
        self._tell("r", "R")

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.heal()
        subprocess.run(["umount", "--lazy", str(self.file.parent)], check=False)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, word: str, answer: str) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self._control))
            control.sendall(word.encode())
            said = control.recv(1).decode()
            assert said == answer, f"nbdkit answers {said!r} to {word!r}"
