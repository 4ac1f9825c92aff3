"""Two guests and a cable: one serves a replicated device with a file system on it, and dies."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .guest import Guest

DEVICE = "/dev/leasehold/data"
PORT = 7000
# Appends a number, makes it durable, and only then tells it.
WRITER = "n=0; while n=$((n+1)); echo $n >>/mnt/records && sync /mnt/records; do echo $n >/dev/vport0p2; done"


def _ports() -> tuple[int, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def test_what_was_acknowledged_survives_its_machine(boot: Callable[..., Guest]) -> None:
    one_port, two_port = _ports()
    size = 64 << 20
    with ThreadPoolExecutor() as both:
        one, two = both.map(lambda how: boot(disk=size, **how), [{"number": 1, "cable": (one_port, two_port)}, {"number": 2, "cable": (two_port, one_port)}])
    for guest in (one, two):
        guest.run("leasehold-volume create --backing /dev/vdb --lineage test")
    two.serve("--listen", f"10.0.0.2:{PORT}", "--insecure", hears="following at")
    one.serve("--device", "data", "--peer", f"10.0.0.2:{PORT}", "--insecure", hears="at /dev/")
    one.until("grep -q 'in sync' /run/server.out", 120)
    one.run(f"mkfs.ext4 -q {DEVICE} && mount -t ext4 {DEVICE} /mnt", limit_s=120)
    one.run(f"({WRITER}) >/run/writer.log 2>&1 &")
    until = time.monotonic() + 60
    while len(one.reports()) < 40:
        assert time.monotonic() < until, one.run("cat /run/writer.log") + one.logs()
        time.sleep(0.2)
    one.kill()
    acknowledged = [int(line) for line in one.reports()]
    two.signal("TERM")
    two.ends()
    began = time.monotonic()
    two.serve("--device", "data", "--peer", f"10.0.0.1:{PORT}", "--insecure", hears="at /dev/")
    print(f"\nthe other one serves after {time.monotonic() - began:.1f} s; {len(acknowledged)} records were acknowledged")
    # 0 or 1: clean, or put right by its journal.
    assert int(two.run(f"e2fsck -fy {DEVICE} >/run/fsck.log 2>&1; echo $?", limit_s=120)) in (0, 1), two.run("cat /run/fsck.log")
    two.run(f"e2fsck -fn {DEVICE}", limit_s=120)
    two.run(f"mount -t ext4 {DEVICE} /mnt")
    there = [int(line) for line in two.run("cat /mnt/records").split()]
    assert there[: len(acknowledged)] == acknowledged, f"{len(acknowledged)} were acknowledged, {len(there)} are there"
    assert len(there) <= len(acknowledged) + 1, "one may have been under way"
    two.run("umount /mnt", limit_s=60)
    assert not two.io_errors(), two.io_errors()
