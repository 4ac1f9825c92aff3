"""A cgroup v2 directory per instance and program: the whole of it is killed or frozen at once, whatever it forked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable

from .netns import PlaneError

POLL_S = 0.002
KILL_LIMIT_S = 10  # SIGKILL takes milliseconds unless a process hangs in the kernel


def mount_point() -> Path:
    """Of cgroup v2, which is /sys/fs/cgroup or, beside v1 hierarchies, below it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            return Path(left.split()[4])
    raise PlaneError("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")


class Cgroup:
    def __init__(self, path: Path):
        self.path = path

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def child(self, name: str) -> "Cgroup":
        return Cgroup(self.path / name)

    def pids(self) -> list[int]:
        """Of this cgroup and everything below."""
        found = []
        for directory in self._directories():
            try:
                found += [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
            except (FileNotFoundError, OSError):
                continue  # removed meanwhile
        return found

    def kill(self) -> None:
        """SIGKILL to all at once (frozen ones too); returns when nothing is left."""
        if not self.path.exists():
            return
        self._wait("populated 0", KILL_LIMIT_S, "its processes did not die (hanging in the kernel?)", self._kill_once)

    def freeze(self) -> None:
        (self.path / "cgroup.freeze").write_text("1")
        self._wait("frozen 1", KILL_LIMIT_S, "it did not freeze")

    def thaw(self) -> None:
        (self.path / "cgroup.freeze").write_text("0")

    def remove(self) -> None:
        """Kill what is inside and remove the directories."""
        if not self.path.exists():
            return
        self.kill()
        for directory in sorted(self._directories(), key=lambda one: len(one.parts), reverse=True):
            until = time.monotonic() + KILL_LIMIT_S
            while True:
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError as error:  # the last dead process may still be leaving
                    if time.monotonic() > until:
                        raise PlaneError(f"cgroup {directory} cannot be removed: {error}") from error
                    time.sleep(POLL_S)

    def _directories(self) -> list[Path]:
        if not self.path.exists():
            return []
        return [self.path, *(one for one in self.path.rglob("*") if one.is_dir())]

    def _kill_once(self) -> None:
        """Does not reach a process that enters a moment later (a program that is being started): ask again until all are gone."""
        (self.path / "cgroup.kill").write_text("1")

    def _wait(self, state: str, limit_s: float, what: str, ask: Callable[[], None] = lambda: None) -> None:
        until = time.monotonic() + limit_s
        ask()
        while state not in (self.path / "cgroup.events").read_text():
            if time.monotonic() > until:
                raise PlaneError(f"cgroup {self.path}: {what}; look at /proc/<pid>/stack of {self.pids()}")
            time.sleep(POLL_S)
            ask()
