"""The volume as a block device of a real kernel, by its NBD client: file systems on it, and its server killed, stopped and replaced
under them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .device import DEVICE, FIO, LOAD, clean, load_ends, mount, sweep, unmount_and_check
from .guest import Guest

# A short time for what was under way as its server died; what is usual is told by `leasehold-volume serve --help`.
SERVE = ("--device", "data", "--device-retry", "2")


@pytest.fixture(autouse=True)
def left_as_found(guest: Guest) -> Iterator[None]:
    clean(guest)
    yield
    sweep(guest, *SERVE)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_works_on_it(guest: Guest, kind: str) -> None:
    said = guest.serve(*SERVE, "--device-connections", "3", hears="at /dev/")
    assert "at /dev/leasehold/data (/dev/nbd0, 3 connections)" in said
    mount(guest, kind)
    guest.run(FIO, limit_s=240)
    unmount_and_check(guest, kind)
    guest.signal("TERM")
    guest.ends()
    assert guest.run("cat /sys/block/nbd0/size").strip() == "0"


@pytest.mark.parametrize("how", ["KILL", "TERM"])
def test_a_restart_under_load_is_a_pause(guest: Guest, how: str) -> None:
    guest.serve(*SERVE, hears="at /dev/")
    kind = {"KILL": "ext4", "TERM": "xfs"}[how]
    mount(guest, kind)
    guest.run(LOAD)
    for _ in range(3):
        guest.run("sleep 3")
        guest.signal(how)
        guest.ends()
        # The device stays, and so does its name: it is mounted.
        assert guest.exit_code(f"[ -b {DEVICE} ]") == 0
        assert "resumed" in guest.serve(*SERVE, hears="at /dev/")
    guest.run("sleep 3")
    assert load_ends(guest) == 0, guest.run("cat /run/fio.log") + guest.logs()
    unmount_and_check(guest, kind)


def test_a_standstill_beyond_every_time_out_is_a_pause(guest: Guest) -> None:
    guest.serve(*SERVE, hears="at /dev/")
    mount(guest, "ext4")
    guest.run(LOAD)
    guest.run("sleep 3")
    guest.signal("STOP")
    guest.run("sleep 40", limit_s=80)
    assert guest.exit_code("[ -e /run/load ]") == 1
    # The kernel has given up its connections meanwhile, one by one or all at once, and waits for others.
    said = guest.run("dmesg")
    assert "timed out" in said or "Dead connection" in said, said[-2000:]
    guest.signal("CONT")
    guest.run("sleep 5")
    assert load_ends(guest) == 0, guest.run("cat /run/fio.log") + guest.logs()
    unmount_and_check(guest, "ext4")


def test_a_device_whose_data_others_may_have_changed_is_ended(guest: Guest) -> None:
    """Also what the stories above rest on: without new sockets, the same load fails."""
    guest.serve(*SERVE, hears="at /dev/")
    mount(guest, "ext4")
    guest.run(LOAD)
    guest.run("sleep 3")
    guest.signal("KILL")
    guest.ends()
    guest.run("sed -i s:vdb:another: /run/leasehold-devices/data")
    said = guest.serve(*SERVE, hears="at /dev/")
    assert "resumed" not in said and "/dev/nbd1" in said, "the old one is still mounted, and never comes back"
    assert load_ends(guest) != 0
    assert guest.io_errors()
    guest.run("umount /mnt", code=None)
    guest.run(f"dd if={DEVICE} of=/dev/null bs=64k count=16 2>/dev/null")


def test_a_leader_that_is_fenced_takes_its_device_along(guest: Guest) -> None:
    for name in ("one", "two"):
        guest.run(f"truncate -s 24M /run/{name} && leasehold-volume create --lineage test --buffered --backing /run/{name}")
    follow = ("--listen", "127.0.0.1:7000")
    guest.serve(*follow, hears="following", name="two", backing="/run/two")
    guest.serve(*SERVE, "--peer", "127.0.0.1:7000", hears="at /dev/", backing="/run/one")
    guest.until("grep -q 'in sync' /run/server.out", 60)
    guest.run(f"mkfs.ext4 -q {DEVICE} && mount -t ext4 {DEVICE} /mnt", limit_s=60)

    def end_the_other() -> None:
        guest.signal("TERM", "two")
        guest.ends("two")

    end_the_other()
    # It is told to lead, promises an epoch of its own, and comes back with the promise.
    guest.serve("--peer", "127.0.0.1:7009", "--socket", "/run/two.sock", name="two", backing="/run/two")
    end_the_other()
    guest.run("echo before >/mnt/file && sync /mnt/file")
    guest.serve(*follow, hears="following", name="two", backing="/run/two")
    guest.ends(limit_s=30)
    assert "somebody else leads" in guest.logs()
    assert guest.exit_code(f"[ -e {DEVICE} ]") == 1, "it is mounted, and gone all the same"
    assert guest.exit_code("cp /bin/busybox /mnt/late && sync /mnt/late") != 0
    assert guest.io_errors()
    guest.run("umount /mnt", code=None)
    end_the_other()


def test_devices_of_others_are_left_alone(guest: Guest) -> None:
    guest.run("truncate -s 16M /run/other")
    command = "leasehold-volume serve --backing /run/other --buffered --device data2"
    guest.run(f"{command} >/run/other.out 2>/run/other.err & echo $! >/run/other.pid")
    guest.until("grep -q 'at /dev/' /run/other.out")
    # Whoever serves it is not there just now: it is not ours all the same.
    guest.run("kill -STOP $(cat /run/other.pid)")
    said = guest.serve(*SERVE, hears="at /dev/")
    assert "/dev/nbd1" in said
    guest.run("truncate -s 16M /run/third")
    assert "stop that one" in guest.run(command.replace("/run/other", "/run/third"), code=1), "nor is there a second server for one name"
    guest.signal("TERM")
    guest.ends()
    guest.run("kill -CONT $(cat /run/other.pid)")
    assert guest.run("cat /sys/block/nbd0/backend").strip() == "leasehold/data2"
    guest.run("dd if=/dev/leasehold/data2 of=/dev/null bs=1M count=16 2>/dev/null; kill $(cat /run/other.pid)")
    guest.until("[ ! -e /dev/leasehold/data2 ]")
