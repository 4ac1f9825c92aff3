"""The volume as a block device of a real kernel, by its ublk driver: file systems on it, and its server killed, stopped and replaced
under them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .device import DEVICE, FIO, LOAD, clean, load_ends, mount, sweep, unmount_and_check
from .guest import Guest

NBD = ("--device", "data", "--device-retry", "2")
SERVE = ("--device", "data", "--device-driver", "ublk")


@pytest.fixture(autouse=True)
def left_as_found(guest: Guest) -> Iterator[None]:
    clean(guest)
    yield
    sweep(guest, *SERVE)
    assert guest.exit_code("ls /dev/ublkc*") == 1, "nothing is left of any device"
    said = [line for line in guest.run("dmesg").splitlines() if "WARNING:" in line or "BUG:" in line]
    assert not said, said


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_works_on_it(guest: Guest, kind: str) -> None:
    said = guest.serve(*SERVE, hears="at /dev/")
    assert "at /dev/leasehold/data (/dev/ublkb0)" in said
    # A cache that is flushed, as file systems rely on it; and what they discard.
    assert guest.run("cat /sys/block/ublkb0/queue/write_cache /sys/block/ublkb0/queue/fua").split("\n")[:2] == ["write back", "1"]
    guest.run(f"blkdiscard -o 0 -l 1048576 {DEVICE}")
    mount(guest, kind)
    guest.run(FIO, limit_s=240)
    unmount_and_check(guest, kind)
    guest.signal("TERM")
    guest.ends()
    assert guest.exit_code("[ -e /dev/ublkb0 ]") == 1


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


def test_a_standstill_is_a_pause(guest: Guest) -> None:
    guest.serve(*SERVE, hears="at /dev/")
    mount(guest, "ext4")
    guest.run(LOAD)
    guest.run("sleep 3")
    guest.signal("STOP")
    # The kernel's own limit for a request is 30 s.
    guest.run("sleep 40", limit_s=80)
    assert guest.exit_code("[ -e /run/load ]") == 1
    guest.signal("CONT")
    guest.run("sleep 3")
    assert load_ends(guest) == 0, guest.run("cat /run/fio.log") + guest.logs()
    unmount_and_check(guest, "ext4")


def test_a_device_whose_data_others_may_have_changed_is_ended(guest: Guest) -> None:
    """Also what the stories above rest on: where nobody goes on with the device, the same load fails."""
    guest.serve(*SERVE, hears="at /dev/")
    mount(guest, "ext4")
    guest.run(LOAD)
    guest.run("sleep 3")
    guest.signal("KILL")
    guest.ends()
    guest.run("sed -i s:vdb:another: /run/leasehold-devices/data")
    said = guest.serve(*SERVE, hears="at /dev/")
    assert "resumed" not in said and "/dev/ublkb1" in said, "the old one is still mounted, and never comes back"
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
    guest.run("echo before >/mnt/file && sync /mnt/file")
    guest.signal("TERM", "two")
    guest.ends("two")
    # It is told to lead, promises an epoch of its own, and comes back with the promise.
    guest.serve("--peer", "127.0.0.1:7009", "--socket", "/run/two.sock", name="two", backing="/run/two")
    guest.signal("TERM", "two")
    guest.ends("two")
    guest.serve(*follow, hears="following", name="two", backing="/run/two")
    guest.ends(limit_s=30)
    assert "somebody else leads" in guest.logs()
    assert guest.exit_code(f"[ -e {DEVICE} ]") == 1, "it is mounted, and gone all the same"
    assert guest.exit_code("cp /bin/busybox /mnt/late && sync /mnt/late") != 0
    assert guest.io_errors()
    guest.run("umount /mnt", code=None)
    guest.signal("TERM", "two")
    guest.ends("two")


def test_another_driver_does_not_go_on_with_a_device(guest: Guest) -> None:
    for before, after, disk in ((NBD, SERVE, "ublkb0"), (SERVE, NBD, "nbd")):
        guest.serve(*before, hears="at /dev/")
        guest.signal("KILL")
        guest.ends()
        said = guest.serve(*after, hears="at /dev/")
        assert disk in said and "resumed" not in said
        assert "the device of an earlier server is ended" in guest.logs()
        guest.run(f"dd if={DEVICE} of=/dev/null bs=64k count=16 2>/dev/null")
        guest.signal("TERM")
        guest.ends()
        guest.run("rm /run/server.err")
