"""What is done to a device in a guest, by whichever driver it is one: a file system on it, a load, a check."""

from __future__ import annotations

from .guest import Guest

DEVICE = "/dev/leasehold/data"
# Writes at places of its own choosing and reads all of it back: an I/O error or another block's data ends it with 1.
FIO = "fio --name=load --directory=/mnt --size=24m --bsrange=4k-64k --rw=randwrite --ioengine=psync --numjobs=2 --verify=crc32c --verify_fatal=1 --end_fsync=1 --output=/run/fio.log"
# As long as it is not told to stop; in the end its exit code is in /run/load.
LOAD = f"rm -f /run/load /run/stop; (code=0; while [ $code = 0 -a ! -e /run/stop ]; do {FIO}; code=$?; done; echo $code >/run/load) >/dev/null 2>&1 &"
FSCK = {"ext4": f"e2fsck -fn {DEVICE}", "xfs": f"xfs_repair -n {DEVICE}"}
MKFS = {"ext4": f"mkfs.ext4 -q -F {DEVICE}", "xfs": f"mkfs.xfs -q -f {DEVICE}"}


def clean(guest: Guest) -> None:
    guest.run("dmesg -c >/dev/null; rm -f /run/*.err /run/*.out; dd if=/dev/zero of=/dev/vdb bs=1M count=4 2>/dev/null; dd if=/dev/zero of=/dev/vdb bs=1M seek=319 count=1 2>/dev/null; rm -f /run/one /run/two")


def sweep(guest: Guest, *serve: str) -> None:
    # After a story that went wrong, too: nothing of it is left for the next.
    guest.run("killall -9 fio 2>/dev/null; umount -l /mnt 2>/dev/null; killall -CONT leasehold-volume; killall leasehold-volume 2>/dev/null; true", code=None)
    guest.until("! pidof leasehold-volume", 30)
    if guest.exit_code(f"[ ! -e {DEVICE} ]") != 0:
        guest.serve(*serve, hears="at /dev/", name="sweeper")
        guest.run("mount -t tmpfs mnt /mnt; killall leasehold-volume; true")
        guest.ends("sweeper")
    assert guest.exit_code(f"[ ! -e {DEVICE} ]") == 0, guest.logs()


def mount(guest: Guest, kind: str) -> None:
    guest.run(f"{MKFS[kind]} && mount -t {kind} {DEVICE} /mnt", limit_s=120)


def unmount_and_check(guest: Guest, kind: str) -> None:
    guest.run("umount /mnt", limit_s=120)
    guest.run(FSCK[kind], limit_s=120)
    assert not guest.io_errors(), guest.io_errors()


def load_ends(guest: Guest) -> int:
    guest.run("touch /run/stop")
    return int(guest.until("cat /run/load", 240))
