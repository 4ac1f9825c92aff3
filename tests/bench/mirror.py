"""Replicated writes, each on both sides before it is answered, beside qemu-storage-daemon's mirror job (copy-mode=write-blocking).

    make bench-mirror           ROUNDS=5 RUNTIME_S=2

Both sides on this machine, on files in /dev/shm, over TCP on loopback; fio's nbd engine writes over a UNIX socket. The pairs take
turns within each round. A ratio is ours to the other's, round by round; the median is judged.

Then with a delay line of 1 ms there and back between the sides: what a 4 KiB write takes, held against what nobody can beat: the
slower of a local write, and the round trip through the same line plus a write on the other side. All three are measured in the
same round. The last line is JSON; exit code 1 where a goal is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from volume.replica import Replica
from volume.server import BINARY

from .delay_line import DelayLine
from .figures import Machine, table

SIZE = 256 << 20
PATTERNS = [("randwrite", "4k", 1), ("randwrite", "4k", 32), ("write", "1m", 8)]
GOAL = 2.0  # of the mirror's requests
DELAY_S = 0.001  # there and back
DELAY_GOAL = 1.10  # of the best that can be
RAMP_S = 1  # fio takes whole seconds
READY_LIMIT_S = 60
ECHOES = 300


def main() -> int:
    rounds, runtime_s = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("RUNTIME_S", "2"))
    for tool in ("fio", "qemu-storage-daemon"):
        if not shutil.which(tool):
            print(f"{tool} is missing: make setup", file=sys.stderr)
            return 2
    machine = Machine()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        throughput = _beside_the_mirror(Path(folder), rounds, runtime_s)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        latency = _at_a_distance(Path(folder), rounds, runtime_s)
    return _report(throughput, latency, rounds, machine.busy_percent())


Samples = dict[tuple[tuple[str, str, int], str], list[dict[str, float]]]


def _beside_the_mirror(folder: Path, rounds: int, runtime_s: int) -> Samples:
    samples: Samples = {}
    with ExitStack() as ending:
        sockets = {"leasehold": ending.enter_context(_ours(folder)), "qemu mirror": ending.enter_context(_mirror(folder))}
        names = list(sockets)
        for number in range(rounds):
            for pattern in PATTERNS:
                for name in names if number % 2 else names[::-1]:
                    samples.setdefault((pattern, name), []).append(_fio(sockets[name], pattern, runtime_s))
    return samples


def _at_a_distance(folder: Path, rounds: int, runtime_s: int) -> list[dict[str, float]]:
    found, pattern = [], PATTERNS[0]
    with ExitStack() as ending:
        far = ending.enter_context(_ours(folder, DELAY_S))
        local = ending.enter_context(_alone(folder))
        for _ in range(rounds):
            once = {"local_us": _fio(local, pattern, runtime_s)["mean_us"], "round_trip_us": _round_trip_us(), "replicated_us": _fio(far, pattern, runtime_s)["mean_us"]}
            once["best_us"] = max(once["local_us"], once["round_trip_us"] + once["local_us"])
            found.append(once | {"ratio": once["replicated_us"] / once["best_us"]})
    return found


def _fio(sock: Path, pattern: tuple[str, str, int], runtime_s: int) -> dict[str, float]:
    rw, size, depth = pattern
    command = ["fio", "--name=b", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={sock}", f"--rw={rw}", f"--bs={size}", f"--iodepth={depth}", f"--size={SIZE}",
               "--time_based", f"--runtime={runtime_s}", f"--ramp_time={RAMP_S}", "--randrepeat=0", "--norandommap", "--output-format=json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 + runtime_s)
    assert done.returncode == 0, f"fio on {sock}: {done.stderr}"
    told = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["write"]
    return {"iops": told["iops"], "mean_us": told["clat_ns"]["mean"] / 1000, "p99_us": told["clat_ns"]["percentile"]["99.000000"] / 1000}


# --- who replicates ----------------------------------------------------------------------------------------------------


@contextmanager
def _ours(folder: Path, delay_s: float = 0) -> Iterator[Path]:
    standby, leader = Replica(folder, "b", size=SIZE, log="warn"), Replica(folder, "a", size=SIZE, log="warn")
    for one in (standby, leader):
        _fill(one.backing)
    with ExitStack() as ending:
        standby.follow()
        ending.callback(standby.end)
        if delay_s:
            standby.port = ending.enter_context(DelayLine(standby.port, delay_s / 2)).port
        leader.lead(standby)
        ending.callback(leader.end)
        leader.hears("in sync with", READY_LIMIT_S)
        yield leader.socket


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    sock = folder / "alone.sock"
    with _running([str(BINARY), "serve", "--backing", str(_fill(folder / "alone.img")), "--socket", str(sock)]):
        _wait(f"{sock}", sock.exists)
        yield sock


@contextmanager
def _mirror(folder: Path) -> Iterator[Path]:
    port, sock, monitor = _free_port(), folder / "mirror.sock", folder / "mirror.qmp"
    source, target = _fill(folder / "source.img"), _fill(folder / "target.img")
    with (
        _running(["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=t,filename={target}", "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}",
                  "--export", "type=nbd,id=e,node-name=t,name=t,writable=on"]),
    ):  # fmt: skip
        _wait("the mirror's target", lambda: _answers(port))
        command = ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=s,filename={source}",
                   "--blockdev", f"driver=nbd,node-name=r,server.type=inet,server.host=127.0.0.1,server.port={port},export=t",
                   "--nbd-server", f"addr.type=unix,addr.path={sock}", "--export", "type=nbd,id=e,node-name=s,name=,writable=on",
                   "--chardev", f"socket,id=q,path={monitor},server=on,wait=off", "--monitor", "chardev=q"]  # fmt: skip
        with _running(command):
            _wait("the mirror's monitor", monitor.exists)
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(monitor))
                words = link.makefile("rw")
                _tell(words, "qmp_capabilities")
                _tell(words, "blockdev-mirror", **{"job-id": "m", "device": "s", "target": "r", "sync": "full", "copy-mode": "write-blocking"})
                _wait("the mirror", lambda: [job["status"] for job in _tell(words, "query-jobs")] == ["ready"])
                yield sock


def _tell(words, execute: str, **arguments):
    words.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
    words.flush()
    for line in words:
        answer = json.loads(line)
        assert "error" not in answer, answer
        if "return" in answer:
            return answer["return"]
    raise AssertionError("the mirror's monitor has ended")


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def _wait(what: str, holds) -> None:
    until = time.monotonic() + READY_LIMIT_S
    while not holds():
        assert time.monotonic() < until, f"{what} is not ready within {READY_LIMIT_S} s"
        time.sleep(0.02)


def _fill(path: Path) -> Path:
    """Written once, so that no measured write allocates."""
    with path.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(b"\1" * (1 << 20))
    return path


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _round_trip_us() -> float:
    """4 KiB there and a short answer back through a line of the same delay, mean."""
    with socket.create_server(("127.0.0.1", 0)) as listener, DelayLine(listener.getsockname()[1], DELAY_S / 2) as line:
        with socket.create_connection(("127.0.0.1", line.port)) as here:
            there, _ = listener.accept()
            with there:
                for one in (here, there):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                took = 0.0
                for _ in range(ECHOES):
                    began = time.perf_counter()
                    here.sendall(bytes(4096))
                    left = 4096
                    while left:
                        left -= len(there.recv(left))
                    there.sendall(bytes(64))
                    left = 64
                    while left:
                        left -= len(here.recv(left))
                    took += time.perf_counter() - began
                return took / ECHOES * 1e6


def _report(samples: Samples, latency: list[dict[str, float]], rounds: int, busy: float) -> int:
    rows, missed, told = [], [], {}
    for pattern in PATTERNS:
        title = f"{pattern[0].removeprefix('rand')} {pattern[1]} QD{pattern[2]}"
        ratios = sorted(ours["iops"] / other["iops"] for ours, other in zip(samples[pattern, "leasehold"], samples[pattern, "qemu mirror"], strict=True))
        ratio = statistics.median(ratios)
        for name in ("leasehold", "qemu mirror"):
            runs = samples[pattern, name]
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            spread = [run["iops"] for run in runs]
            remark = f"{ratio:.2f} of the mirror ({ratios[0]:.2f} to {ratios[-1]:.2f})" if name == "leasehold" else ""
            rows.append([title, name, f"{middle['iops']:.0f}", f"{min(spread):.0f}-{max(spread):.0f}", f"{middle['mean_us']:.0f}", f"{middle['p99_us']:.0f}", remark])
            told[f"{title}, {name}"] = {key: round(value, 1) for key, value in middle.items()}
        told[f"{title}, ratio"] = round(ratio, 3)
        if ratio < GOAL:
            missed.append(f"{title}: {ratio:.2f} of the mirror, {GOAL} wanted")
    print(f"\nboth sides in memory, {rounds} rounds, medians:\n")
    print(table(["", "pair", "requests/s", "from-to", "mean us", "p99 us", ""], rows))
    ratios = sorted(once["ratio"] for once in latency)
    middle = {key: statistics.median(once[key] for once in latency) for key in latency[0]}
    print(f"\na delay line of {DELAY_S * 1000:.0f} ms there and back, write 4k QD1, means:\n\n  local {middle['local_us']:.0f} us, round trip {middle['round_trip_us']:.0f} us, "
          f"replicated {middle['replicated_us']:.0f} us: {middle['ratio']:.3f} of the best that can be ({ratios[0]:.3f} to {ratios[-1]:.3f})")  # fmt: skip
    if middle["ratio"] > DELAY_GOAL:
        missed.append(f"with a delay line: {middle['ratio']:.3f} of the best that can be, {DELAY_GOAL} wanted")
    print(f"\n  the machine was {busy} % busy")
    for miss in missed:
        print(f"  missed: {miss}")
    print(json.dumps({"mirror": told, "delay": {key: round(value, 3) for key, value in middle.items()}, "rounds": rounds, "busy_percent": busy, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
