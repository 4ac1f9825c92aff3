"""A replicated volume as it is, without a file system: a client that writes one number after the other, and what is there of them.

Each number stands in a block of its own, at its own place, and is durable before the next is asked. So what a replica holds says until
which moment it has everything, and whether anything is there that came later.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Callable

from .cloud import Cloud
from .cluster import Cluster
from .judges import COLOURS
from .network import Network
from .paths import BINARY

VOLUME_BYTES = 128 << 20
BLOCK = 4096
CHUNK = 64 << 10
PACE_S = 0.002  # between two numbers: the volume has room for more than a minute of them
METRICS_URL = "http://127.0.0.1:9400/metrics"

NODE_TOML = """
[volumes]
metadata = "{home}/volume.meta"
follow = "FOLLOW"

[[volume]]
name = "data"
backing = "{home}/volume.img"
socket = "{home}/run/data.sock"
"""

# For Debian's own interpreter, for which python3-libnbd is built.
COUNTER = """
import nbd, sys, time
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
number, run, pace, blocks = 1, int(sys.argv[2]), float(sys.argv[3]), handle.get_size() // 4096
try:
    while number < blocks:
        handle.pwrite(b"%08d%08d" % (run, number) * 256, number * 4096, nbd.CMD_FLAG_FUA)
        print(number, time.monotonic(), flush=True)
        number += 1
        time.sleep(pace)
except nbd.Error as error:
    print("ended", error, file=sys.stderr)
"""


def cluster(cloud: Cloud, network: Network, deployment: str, name: str, follow: str = "sync") -> Cluster:
    """Nodes with a blank volume each, on which nothing runs yet."""
    made = Cluster(cloud, network, deployment, name=name, node_toml=NODE_TOML.replace("FOLLOW", follow), forget_data=make_blank)
    for files in made.files.values():
        make_blank(files.home)
    return made


def make_blank(home: Path, size: int = VOLUME_BYTES) -> None:
    """A new disk, and a replica of nothing on it."""
    disk = home / "volume.img"
    if disk.is_symlink():
        subprocess.run(["dd", "if=/dev/zero", f"of={disk}", "bs=1M", f"count={size >> 20}", "conv=notrunc"], check=True, capture_output=True)
    else:
        disk.unlink(missing_ok=True)
        with disk.open("wb") as file:
            file.truncate(size)
    (home / "volume.meta").unlink(missing_ok=True)
    subprocess.run([BINARY, "volume", "create", "--backing", disk, "--metadata", home / "volume.meta"], check=True, capture_output=True)


def image(nodes: Cluster, node: str) -> Path:
    return nodes.files[node].home / "volume.img"


def uri(nodes: Cluster, node: str) -> str:
    """Where the volume is served while the node leads."""
    return f"nbd+unix:///data?socket={nodes.files[node].home}/run/data.sock"


class Counter:
    """Writes 1, 2, 3, ... on the node that leads, until it is stopped or the node serves no more."""

    def __init__(self, nodes: Cluster, node: str, pace_s: float = PACE_S):
        self.run = time.monotonic_ns() // 1_000_000 % 100_000_000  # what an earlier one has left is not taken for this one's
        command = ["/usr/bin/python3", "-c", COUNTER, uri(nodes, node), str(self.run), str(pace_s)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.acknowledged = 0
        self.told_at: list[float] = []  # CLOCK_MONOTONIC
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            number, at = line.split()
            self.told_at.append(float(at))
            self.acknowledged = int(number)

    def wait_for_more(self, count: int, limit_s: float = 30) -> None:
        wanted = self.acknowledged + count
        wait(f"{count} more numbers", lambda: self.acknowledged >= wanted, limit_s)

    def gap(self, since: float) -> float:
        """The longest time without an answer that began after `since`, up to now."""
        times = [since, *(one for one in list(self.told_at) if one >= since), time.monotonic()]
        return max(later - one for one, later in pairwise(times))

    def stop(self) -> int:
        """The last number that was acknowledged."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.communicate()
        self._thread.join(10)
        return self.acknowledged


def prefix(path: Path, counter: Counter) -> int:
    """How many of its numbers from 1 on are there; none is there behind the first that is missing."""
    data = path.read_bytes()
    found = [data[n * BLOCK : (n + 1) * BLOCK] == b"%08d%08d" % (counter.run, n) * 256 for n in range(1, len(data) // BLOCK)]
    count = found.index(False)
    assert not any(found[count:]), f"a number behind {count + 1} is there, and {count + 1} is not"
    return count


def ask(nodes: Cluster, node: str, *words: str, code: int | None = 0) -> str:
    """What `leasehold WORDS` says there; the admin socket is named."""
    done = nodes.execute(node, str(BINARY), *words, "--socket", str(nodes.files[node].admin_socket))
    assert code is None or done["status"] == code, (words, done)
    return done["stdout"] + (done["stderr"] if code != 0 else "")


def offline(nodes: Cluster, node: str, verb: str, *options: str) -> str:
    """What `leasehold volume VERB` says of the disks of a node whose daemon is stopped."""
    home = nodes.files[node].home
    command = [str(BINARY), "volume", verb, "--backing", str(home / "volume.img"), "--metadata", str(home / "volume.meta"), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def status(nodes: Cluster, node: str) -> dict[str, Any]:
    said = ask(nodes, node, "volume", "status", "--json", code=None)  # it ends with 2 where something is wrong
    return json.loads(said) or {"peers": []}  # null: its daemon still waits for something


def peer(nodes: Cluster, node: str) -> dict[str, Any]:
    """What the holder knows of its one peer; with nothing in it where it knows none."""
    return (status(nodes, node)["peers"] or [{"state": None, "lag_ms": None, "behind_bytes": None}])[0]


def is_even(nodes: Cluster, node: str, since: float) -> bool:
    """Whether what was completed before `since` is on the follower of the node that leads, as its status tells."""
    asked = time.monotonic()  # what it says is as of then, or later
    told = peer(nodes, node)
    return told["state"] == "following" and told["lag_ms"] is not None and told["lag_ms"] < (asked - since) * 1_000


def metric(nodes: Cluster, node: str, name: str) -> list[float]:
    """The values of a series on that node's page, whatever its labels."""
    done = nodes.execute(node, "curl", "--silent", "--fail", METRICS_URL)
    return [float(value) for value in re.findall(rf"^leasehold_{name}(?:\{{[^}}]*\}})? (\S+)$", done["stdout"], re.MULTILINE)]


def plain(log: str) -> str:
    """Without colours."""
    return COLOURS.sub("", log)


def wait(what: str, holds: Callable[[], Any], limit_s: float = 30) -> None:
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, f"not within {limit_s} s: {what}"
        time.sleep(0.1)
