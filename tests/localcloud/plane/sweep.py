"""Remove what dead runs left: `python -m localcloud.plane.sweep`. A run whose owner lives is never touched."""

from __future__ import annotations

import os
import signal
import sys
import time

from . import cgroup, netns, owner
from .cgroup import Cgroup


def sweep() -> list[str]:
    """Returns the runs that were removed."""
    swept = []
    for found in owner.all_owners():
        if not found.alive():
            remove(found.prefix)
            owner.forget(found.run)
            swept.append(found.run)
    return swept


def remove(prefix: str) -> None:
    """Processes first (cgroup, then whoever else entered the namespaces), then namespaces (their links go along), then directories."""
    group = Cgroup(cgroup.mount_point() / prefix)
    group.kill()
    for name in netns.named(f"{prefix}-"):
        _end_processes_inside(name)
        try:
            netns.delete(name)
        except netns.PlaneError:
            if netns.path(name).exists():  # else somebody else was faster
                raise
    group.remove()


def _end_processes_inside(name: str) -> None:
    """Clients of the test that were started inside: by their id, each."""
    pids = [pid for pid in netns.processes(name) if pid != os.getpid()]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    until = time.monotonic() + 2
    while pids and time.monotonic() < until and any(pid in pids for pid in netns.processes(name)):
        time.sleep(0.005)


if __name__ == "__main__":
    runs = sweep()
    print(f"removed {len(runs)} dead run(s){': ' + ', '.join(runs) if runs else ''}")
    sys.exit(0)
