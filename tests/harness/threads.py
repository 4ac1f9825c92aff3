"""One thread of a process that stands still while the others go on, as if it hung: in a loop, for a lock, or in the kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

# A process of its own: what it holds up it must wait for itself (or the dead thread would stay, and its process with it), and if it
# ends, the thread goes on.
HOLDER = """
import ctypes, os, sys
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
thread = int(sys.argv[1])
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes, ptrace.restype = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p], ctypes.c_long
for request in (SEIZE, INTERRUPT):
    if ptrace(request, thread, None, None) == -1:
        sys.exit("ptrace: " + os.strerror(ctypes.get_errno()))
while True:
    status = os.waitpid(thread, WALL)[1]
    if not os.WIFSTOPPED(status):
        break
    print("still", flush=True)
"""


def named(pid: int, name: str) -> int:
    """The one thread of the process that has this name."""
    found = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == name]
    assert len(found) == 1, f"process {pid} has {len(found)} threads called {name}"
    return found[0]


class Still:
    """Holds a thread up until it is let go of, or its process has ended."""

    def __init__(self, thread: int):
        self._holder = subprocess.Popen(["/usr/bin/python3", "-c", HOLDER, str(thread)], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout
        said = self._holder.stdout.readline()
        if said != "still\n":
            self.let_go()
            raise AssertionError(f"thread {thread} does not stand still: {said!r}")

    def let_go(self) -> None:
        self._holder.kill()
        self._holder.communicate()
