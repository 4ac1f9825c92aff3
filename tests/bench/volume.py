"""The unreplicated NBD server beside nbdkit's file plugin and qemu-nbd, in the same run, on the same backing.

    make bench-volume           ROUNDS=5 RUNTIME_S=2

fio's nbd engine over a UNIX socket: 4k with one and with 32 requests outstanding, 1M with eight; reads and writes. The servers
take turns within each round, each round in another order. `memory` is a file in /dev/shm, so that the server itself is what is
measured; `disk` is a file by O_DIRECT, which nbdkit's file plugin cannot (there it is not compared: it would measure the page
cache). A ratio is ours to the better of the others, round by round; its median is judged, 1.00 is the goal. The last line is
JSON; exit code 1 where a goal is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from volume.server import BINARY

from .figures import Machine, table

SIZE = 256 << 20
PATTERNS = [("randread", "4k", 1), ("randwrite", "4k", 1), ("randread", "4k", 32), ("randwrite", "4k", 32), ("read", "1m", 8), ("write", "1m", 8)]
OURS, GOAL = "leasehold", 1.0
RAMP_S = 1  # fio takes whole seconds
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Place:
    """Where the data lies, and who can serve it from there."""

    name: str
    backing: Path
    servers: dict[str, list[str]] = field(default_factory=dict)


def main() -> int:
    rounds, runtime_s = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("RUNTIME_S", "2"))
    for tool in ("fio", "nbdkit", "qemu-nbd"):
        if not shutil.which(tool):
            print(f"{tool} is missing: make setup", file=sys.stderr)
            return 2
    machine = Machine()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, tempfile.TemporaryDirectory(dir="/var/tmp") as disk:
        places = [_memory(Path(memory)), _disk(Path(disk))]
        if wanted := os.environ.get("PLACE"):
            places = [place for place in places if place.name == wanted]
        results = [_measure(place, rounds, runtime_s) for place in places]
    return _report(places, results, machine.busy_percent(), rounds)


def _memory(folder: Path) -> Place:
    place = Place("memory", _filled(folder / "backing"))
    place.servers = {
        OURS: [str(BINARY), "serve", "--backing", str(place.backing), "--socket", "SOCKET"],
        "nbdkit": ["nbdkit", "--foreground", "--unix", "SOCKET", "file", str(place.backing)],
        "qemu-nbd": ["qemu-nbd", "--persistent", "--format=raw", "--shared=8", "--socket=SOCKET", str(place.backing)],
    }
    return place


def _disk(folder: Path) -> Place:
    place = Place("disk", _filled(folder / "backing"))
    place.servers = {
        f"{OURS}": [str(BINARY), "serve", "--backing", str(place.backing), "--socket", "SOCKET"],
        f"{OURS} threads": [str(BINARY), "serve", "--backing", str(place.backing), "--socket", "SOCKET", "--engine", "threads"],
        "qemu-nbd native": ["qemu-nbd", "--persistent", "--format=raw", "--shared=8", "--cache=none", "--aio=native", "--socket=SOCKET", str(place.backing)],
        "qemu-nbd io_uring": ["qemu-nbd", "--persistent", "--format=raw", "--shared=8", "--cache=none", "--aio=io_uring", "--socket=SOCKET", str(place.backing)],
    }
    return place


def _filled(path: Path) -> Path:
    """Written once, so that no measured write allocates."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(block)
        os.fsync(file.fileno())
    return path


Samples = dict[tuple[tuple[str, str, int], str], list[dict[str, float]]]


def _measure(place: Place, rounds: int, runtime_s: int) -> Samples:
    samples: Samples = {}
    names = list(place.servers)
    for round_number in range(rounds):
        for pattern in PATTERNS:
            turn = round_number % len(names)
            for name in names[turn:] + names[:turn]:
                samples.setdefault((pattern, name), []).append(_run(place, name, pattern, runtime_s))
    return samples


def _run(place: Place, name: str, pattern: tuple[str, str, int], runtime_s: int) -> dict[str, float]:
    rw, size, depth = pattern
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        sock = Path(folder) / "s"
        # Only one server may have the file: each is started for its turn.
        server = subprocess.Popen([word.replace("SOCKET", str(sock)) for word in place.servers[name]], stdout=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 10
            while not sock.exists():
                assert server.poll() is None and time.monotonic() < until, f"{name} does not start"
                time.sleep(0.01)
            command = ["fio", "--name=b", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={sock}", f"--rw={rw}", f"--bs={size}", f"--iodepth={depth}", f"--size={SIZE}",
                       "--time_based", f"--runtime={runtime_s}", f"--ramp_time={RAMP_S}", "--randrepeat=0", "--norandommap", "--output-format=json"]  # fmt: skip
            before = _cpu_s(server.pid)
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 + runtime_s)
            spent = _cpu_s(server.pid) - before
            assert done.returncode == 0, f"{name}: {done.stderr}"
            told = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["write" if "write" in rw else "read"]
            total = told["iops"] * (told["runtime"] / 1000 + RAMP_S)
            return {"iops": told["iops"], "p50_us": told["clat_ns"]["percentile"]["50.000000"] / 1000, "p99_us": told["clat_ns"]["percentile"]["99.000000"] / 1000,
                    "cpu_us": 1e6 * spent / total if total else 0.0}  # fmt: skip
        finally:
            server.terminate()
            server.wait(20)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _report(places: list[Place], results: list[Samples], busy: float, rounds: int) -> int:
    told: dict[str, dict[str, object]] = {}
    missed = []
    for place, samples in zip(places, results, strict=True):
        rows = []
        for pattern in PATTERNS:
            title = f"{pattern[0].removeprefix('rand')} {pattern[1]} QD{pattern[2]}"
            others = [name for name in place.servers if not name.startswith(OURS)]
            best = [max(samples[pattern, name][number]["iops"] for name in others) for number in range(rounds)]
            figures: dict[str, object] = {}
            for name in place.servers:
                runs = samples[pattern, name]
                middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                remark, ratio = "", None
                if name.startswith(OURS):
                    ratios = sorted(run["iops"] / other for run, other in zip(runs, best, strict=True))
                    ratio = statistics.median(ratios)
                    remark = f"{ratio:.2f} of the best other ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                    if name == OURS and ratio < GOAL:
                        missed.append(f"{place.name}, {title}")
                spread = [run["iops"] for run in runs]
                rows.append([title, name, f"{middle['iops']:.0f}", f"{min(spread):.0f}-{max(spread):.0f}", f"{middle['p50_us']:.0f}", f"{middle['p99_us']:.0f}", f"{middle['cpu_us']:.1f}", remark])
                title_figures: dict[str, object] = {key: round(value, 1) for key, value in middle.items()}
                figures[name] = title_figures | ({"ratio": round(ratio, 3)} if ratio is not None else {})
            told.setdefault(place.name, {})[title] = figures
        print(f"\n{place.name}, {rounds} rounds, medians:\n")
        print(table(["", "server", "requests/s", "from-to", "p50 us", "p99 us", "server's CPU us", ""], rows))
    print(f"\n  the machine was {busy} % busy")
    for miss in missed:
        print(f"  missed: {miss}")
    print(json.dumps({"volume": told, "rounds": rounds, "busy_percent": busy, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
