"""A resync: how fast it is where nothing else happens, and what it does to those who write meanwhile.

    make bench-resync           ROUNDS=5 SIZE_MIB=1024

Two replicas on files in /dev/shm, over a line of 200 MiB/s, the slower of disk and link. Everything was written while the standby
was away; then it comes back. Idle: the time until it is in sync, held against copying as much from one file to the other through
the same line, by two processes that do nothing else, in the same round. Beside it: 4 KiB writes at a steady beat, first with both
in sync, then while a standby is brought up to date; the two 99th percentiles are held against each other. And of a standby that
missed a few chunks only these travel. Told, and not judged: how fast it is without the line, where the processors are the limit. The last line is JSON; exit code 1 where a goal is missed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from volume.replica import CHUNK, Replica

from .delay_line import DelayLine
from .figures import Machine, percentile, table

IDLE_GOAL, P99_GOAL = 0.9, 2.0
BEAT_S, WARM_S = 0.002, 2.0
PIECE = 1 << 20
LINK_BYTES_S = 200 << 20
LIMIT_S = 120
FEW = 100  # chunks that a standby missed

# Writes 4 KiB each BEAT, for so many seconds or until its input ends, and prints what each took in microseconds.
STEADY = """
import nbd, random, select, sys, time
h = nbd.NBD(); h.connect_uri(sys.argv[1])
beat, limit, blocks, data = float(sys.argv[2]), float(sys.argv[3]), h.get_size() // 4096, b"s" * 4096
rng, began = random.Random(1), time.monotonic()
due = began
print("begun", flush=True)
while time.monotonic() - began < limit and not select.select([sys.stdin], [], [], 0)[0]:
    due = max(due + beat, time.monotonic())
    time.sleep(max(0, due - time.monotonic()))
    at = time.perf_counter()
    h.pwrite(data, rng.randrange(blocks) * 4096)
    print(round((time.perf_counter() - at) * 1e6), flush=False)
"""


def main() -> int:
    rounds, size = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("SIZE_MIB", "1024")) << 20
    machine, found = Machine(), []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            found.append(_round(Path(folder), size))
        one = found[-1]
        print(f"  {number + 1}/{rounds}  idle {one['idle_mib_s']:.0f} MiB/s, a copy {one['copy_mib_s']:.0f} MiB/s; p99 of a write {one['alone_p99_us']:.0f} us, "
              f"beside a resync {one['beside_p99_us']:.0f} us at {one['beside_mib_s']:.0f} MiB/s", flush=True)  # fmt: skip
    middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
    idle, slowed = sorted(one["idle_mib_s"] / one["copy_mib_s"] for one in found), sorted(one["beside_p99_us"] / one["alone_p99_us"] for one in found)
    missed = []
    if statistics.median(idle) < IDLE_GOAL:
        missed.append(f"idle: {statistics.median(idle):.2f} of a copy, {IDLE_GOAL} wanted")
    if statistics.median(slowed) > P99_GOAL:
        missed.append(f"p99 beside a resync: {statistics.median(slowed):.2f} times, at most {P99_GOAL} wanted")
    if middle["few_chunks"] > FEW:
        missed.append(f"{middle['few_chunks']:.0f} chunks travelled where {FEW} differed")
    rows = [["idle", f"{middle['idle_mib_s']:.0f}", f"{statistics.median(idle):.2f} of a copy ({idle[0]:.2f} to {idle[-1]:.2f})"],
            ["beside writes", f"{middle['beside_mib_s']:.0f}", f"their p99 {statistics.median(slowed):.2f} times ({slowed[0]:.2f} to {slowed[-1]:.2f})"],
            ["without the line", f"{middle['unlimited_mib_s']:.0f}", "the processors are the limit"]]  # fmt: skip
    print(f"\n{size >> 20} MiB in memory, {rounds} rounds, medians:\n")
    print(table(["resync", "MiB/s", ""], rows))
    print(f"\n  the machine was {machine.busy_percent()} % busy")
    for miss in missed:
        print(f"  missed: {miss}")
    result = {key: round(value, 1) for key, value in middle.items()} | {"idle_ratio": round(statistics.median(idle), 3), "p99_ratio": round(statistics.median(slowed), 3)}
    print(json.dumps({"resync": result, "rounds": rounds, "busy_percent": machine.busy_percent(), "missed": missed}))
    return 1 if missed else 0


def _round(folder: Path, size: int) -> dict[str, float]:
    standby, leader = Replica(folder, "b", size=size, log="warn"), Replica(folder, "a", size=size, log="warn")
    with ExitStack() as ending:
        standby.follow()
        own = standby.port
        line = ending.enter_context(DelayLine(own, bytes_s=LINK_BYTES_S))
        standby.port = line.port
        leader.lead(standby)
        ending.callback(leader.end)
        leader.hears("in sync with", LIMIT_S)
        standby.port = own
        alone = _ended(_steady(leader, WARM_S))
        _miss_all(standby, leader, size)
        idle = _catch_up(standby, leader)
        _miss_all(standby, leader, size)
        steady = _steady(leader, LIMIT_S)
        beside = _catch_up(standby, leader)
        meanwhile = _ended(steady)
        few = _missed_few(standby, leader)
        # The same pair without the line.
        leader.end()
        leader.lead(standby)
        leader.hears("in sync with", LIMIT_S)
        _miss_all(standby, leader, size)
        unlimited = _catch_up(standby, leader)
        ending.callback(standby.end)
    mib = size >> 20
    return {"idle_mib_s": mib / idle, "copy_mib_s": mib / _copy_s(folder, size), "beside_mib_s": mib / beside, "unlimited_mib_s": mib / unlimited,
            "alone_p99_us": percentile(alone, 99), "beside_p99_us": percentile(meanwhile, 99), "few_chunks": few}  # fmt: skip


def _miss_all(standby: Replica, leader: Replica, size: int) -> None:
    standby.end()
    leader.hears("out of sync", LIMIT_S)
    subprocess.run(["nbdcopy", "--no-extents", "--flush", str(_source(leader.folder, size)), leader.uri()], check=True, timeout=LIMIT_S)


def _catch_up(standby: Replica, leader: Replica) -> float:
    """Seconds from when it is back to when it is in sync."""
    began = time.monotonic()
    standby.follow()
    leader.hears("in sync with", LIMIT_S)
    return time.monotonic() - began


def _missed_few(standby: Replica, leader: Replica) -> int:
    """How many chunks are different when a standby comes back that missed FEW of them."""
    standby.end()
    leader.hears("out of sync", LIMIT_S)
    places = random.Random(2).sample(range(leader.backing.stat().st_size // CHUNK), FEW)
    script = "import nbd, sys\nh = nbd.NBD(); h.connect_uri(sys.argv[1])\nfor at in sys.argv[2:]: h.pwrite(b'f' * 4096, int(at))\nh.flush()"
    subprocess.run(["/usr/bin/python3", "-c", script, leader.uri(), *(str(place * CHUNK) for place in places)], check=True, timeout=60)
    before = standby.backing.read_bytes()
    standby.follow()
    leader.hears("in sync with", LIMIT_S)
    after = standby.backing.read_bytes()
    return sum(before[at : at + CHUNK] != after[at : at + CHUNK] for at in range(0, len(before), CHUNK))


def _source(folder: Path, size: int) -> Path:
    """Other content each time; nothing of it is zeros, which would travel as a word."""
    path, block = folder / "source", os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(block)
    return path


def _steady(leader: Replica, limit_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(["/usr/bin/python3", "-c", STEADY, leader.uri(), str(BEAT_S), str(limit_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ended(steady: subprocess.Popen[str]) -> list[float]:
    if steady.poll() is None and steady.args[-1] == str(LIMIT_S):  # type: ignore[index]
        assert steady.stdin
        steady.stdin.close()
    assert steady.stdout
    told = steady.stdout.read().split()
    assert steady.wait(30) == 0
    return [float(one) for one in told if one != "begun"]


def _copy_s(folder: Path, size: int) -> float:
    """As much, from a file to a file, through the same line, by two processes that do nothing else."""
    source, target = folder / "a.img", folder / "copy"
    with socket.create_server(("127.0.0.1", 0)) as listener, DelayLine(listener.getsockname()[1], bytes_s=LINK_BYTES_S) as line:
        child = multiprocessing.get_context("fork").Process(target=_take, args=(listener, target))
        child.start()
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", line.port)) as link, source.open("rb") as file:
            link.sendfile(file, count=size)
            link.shutdown(socket.SHUT_WR)
        child.join()
        took = time.monotonic() - began
    target.unlink()
    return took


def _take(listener: socket.socket, target: Path) -> None:
    piece = bytearray(PIECE)
    with listener.accept()[0] as link, target.open("wb") as file:
        while count := link.recv_into(piece):
            file.write(memoryview(piece)[:count])


if __name__ == "__main__":
    sys.exit(main())
