"""Who owns which run: a record per run under /run, so that what a crashed run left can be told from what a live one uses."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

RECORDS = Path("/run/localcloud-plane")


@dataclass(frozen=True)
class Owner:
    run: str
    pid: int
    started: int  # the process's start time in clock ticks since boot: with the pid it names one process for good

    @property
    def prefix(self) -> str:
        return f"lc{self.run}"

    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


def record(run: str) -> Owner:
    """Before anything of the run exists."""
    owner = Owner(run, os.getpid(), _start_time(os.getpid()) or 0)
    RECORDS.mkdir(parents=True, exist_ok=True)
    temporary = RECORDS / f".{run}.{owner.pid}"
    temporary.write_text(json.dumps(owner.__dict__))
    temporary.rename(RECORDS / f"{run}.json")
    return owner


def forget(run: str) -> None:
    (RECORDS / f"{run}.json").unlink(missing_ok=True)


def all_owners() -> list[Owner]:
    if not RECORDS.is_dir():
        return []
    owners = []
    for path in sorted(RECORDS.glob("*.json")):
        try:
            owners.append(Owner(**json.loads(path.read_text())))
        except (FileNotFoundError, ValueError, TypeError):
            continue  # removed meanwhile, or not a record
    return owners


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    if fields[0] in ("Z", "X"):
        return None
    return int(fields[19])
