"""Replicated writes as block devices of a real kernel: leasehold's by the kernel's NBD client and by ublk, beside md-raid1 over nbd (what
DataKeeper for Linux is) and DRBD, protocol C.

    make bench-guest            ROUNDS=3 RUNTIME_S=2

One guest with one processor, Debian's kernel and programs, is both sides of each pair: a disk in its memory here, one there, TCP on
loopback between them. Two guests on a cable would be more like the world, and worse to compare by: where there is no KVM, emulated
processors would share the host's with emulated network cards, which costs all pairs the same and hides what differs between them. The
pairs have disks of their own, are made once and are all in sync; they take turns within each round, while the others are idle.

Where the guest is emulated its clock goes by its instructions: 8 ns each, whatever else the host does. Nothing comes from outside it
meanwhile, so a figure is the count of instructions that a pair needs, of its kernel and its programs on both sides, and the same on a
busy host as on an idle one. What that leaves out: that both sides work at the same time; that an instruction that copies 32 bytes
takes longer than one that adds; what caches, switches between kernel and program, disks and networks take on hardware. It is a hard
measure for who does in programs what others do in the kernel.

What is promised by an answered write: leasehold and DRBD have it on both disks; md-raid1 has it on this disk and in nbd-server's page
cache, as nbd-server writes. A flush is a flush of both disks with all of them. No flush is asked for here. leasehold checks all data by
CRC32C on its way, the others do not.

A ratio is ours to the other's, round by round; the median is judged. The last line is JSON; exit code 1 where a goal is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from guest import guest as machine
from guest import image as images
from guest.guest import Guest

from .figures import Machine, table

PEERS = images.Peers(
    packages=("drbd-utils", "mdadm", "nbd-server", "nbd-client", "libnl-genl-3-200"),
    programs=("drbdsetup-84", "drbdmeta", "mdadm", "nbd-server", "nbd-client"),
    modules=("brd", "md-mod", "raid1", "lru_cache", "drbd"),
)
DISK_KIB = 64 << 10
AREA = "32m"  # what is written of each
PATTERNS = [("randwrite", "4k", 1), ("randwrite", "4k", 32), ("write", "1m", 8)]
GOALS = {"md-raid1 over nbd": 1.5, "DRBD C": 1.0}  # of the other's requests
OURS = ("leasehold nbd", "leasehold ublk")
JUDGED = OURS[0]
RAMP_S = 1
RUNS_MAX = 5

# Two disks each, here and there; driver and port.
LEASEHOLD = {"leasehold nbd": ("ram0", "ram1", "nbd", 7000), "leasehold ublk": ("ram2", "ram3", "ublk", 7001)}
NBD_SERVER = """[generic]
listenaddr = 127.0.0.1
[disk]
exportname = /dev/ram5
flush = true
fua = true
"""
NBD = f"""set -e
modprobe nbd; modprobe raid1
cat >/run/nbd.conf <<end
{NBD_SERVER}end
nbd-server -C /run/nbd.conf
"""
# A high number: the first ones are given to whoever asks for any.
NBD_CLIENT = "nbd-client -N disk 127.0.0.1 /dev/nbd9"
MD = """MDADM_NO_UDEV=1 mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --bitmap=internal --assume-clean /dev/ram4 --write-mostly /dev/nbd9
"""
DRBD = """set -e
mkdir -p /var/lock /var/lib/drbd /var/run
modprobe drbd usermode_helper=/bin/true
for side in 0 1; do
    disk=/dev/ram$((6 + side))
    drbdmeta --force $side v08 $disk internal create-md
    drbdsetup-84 new-resource r$side
    drbdsetup-84 new-minor r$side $side 0
    drbdsetup-84 attach $side $disk $disk internal
done
drbdsetup-84 connect r0 ipv4:127.0.0.1:7100 ipv4:127.0.0.1:7101 --protocol=C
drbdsetup-84 connect r1 ipv4:127.0.0.1:7101 ipv4:127.0.0.1:7100 --protocol=C
"""
DEVICES = {"leasehold nbd": "/dev/leasehold/by-nbd", "leasehold ublk": "/dev/leasehold/by-ublk", "md-raid1 over nbd": "/dev/md0", "DRBD C": "/dev/drbd0"}


def main() -> int:
    rounds, runtime_s = int(os.environ.get("ROUNDS", "3")), int(os.environ.get("RUNTIME_S", "2"))
    if not shutil.which("qemu-system-x86_64"):
        print("qemu-system-x86_64 is missing: make bench-guest installs it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="lhb-", dir="/var/tmp") as path:
        folder = Path(path)
        image = images.build(folder, PEERS)
        accel = machine.accelerator(image, folder)
        guest = Guest(folder, image, accel, memory_mib=1024, counted=True)
        try:
            _set_up(guest)
            busy = Machine()
            samples = _measure(guest, rounds, runtime_s)
            return _report(samples, rounds, accel, busy.busy_percent())
        finally:
            guest.kill()


Samples = dict[tuple[tuple[str, str, int], str], list[dict[str, float]]]


def _set_up(guest: Guest) -> None:
    guest.run(f"modprobe brd rd_nr=8 rd_size={DISK_KIB} max_part=0")
    for name, (here, there, driver, port) in LEASEHOLD.items():
        for disk in (here, there):
            guest.run(f"leasehold-volume create --backing /dev/{disk} --lineage {driver}")
        address = f"127.0.0.1:{port}"
        guest.serve("--listen", address, hears="following at", name=f"{driver}-there", backing=f"/dev/{there}", log="warn")
        guest.serve("--device", Path(DEVICES[name]).name, "--device-driver", driver, "--peer", address, hears="at /dev/", name=f"{driver}-here", backing=f"/dev/{here}", log="warn")
        guest.until(f"grep -q 'in sync' /run/{driver}-here.out", 120)
    guest.run(NBD)
    guest.until(NBD_CLIENT, 30)
    guest.run(MD)
    guest.run(DRBD)
    guest.until("grep '^ *0:' /proc/drbd | grep -q cs:Connected", 60)
    guest.run("drbdsetup-84 new-current-uuid --clear-bitmap 0 && drbdsetup-84 primary 0")
    # Each of them keeps two copies, or nothing is compared.
    assert "ro:Primary/Secondary ds:UpToDate/UpToDate C" in guest.run("cat /proc/drbd"), guest.run("cat /proc/drbd")
    assert "[UU]" in guest.run("cat /proc/mdstat"), guest.run("cat /proc/mdstat")
    for device in DEVICES.values():
        # Once all over, so that no measured write allocates, nor is the first to its place.
        guest.run(f"fio --name=fill --filename={device} --direct=1 --rw=write --bs=1m --size={AREA}", limit_s=180)


def _measure(guest: Guest, rounds: int, runtime_s: int) -> Samples:
    samples: Samples = {}
    names = list(DEVICES)
    for number in range(rounds):
        for pattern in PATTERNS:
            for name in names[number % len(names) :] + names[: number % len(names)]:
                samples.setdefault((pattern, name), []).append(_replicated(guest, name, pattern, runtime_s))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    assert "UpToDate/UpToDate" in guest.run("cat /proc/drbd")
    assert "[UU]" in guest.run("cat /proc/mdstat")
    assert not guest.io_errors(), guest.io_errors()
    return samples


def _replicated(guest: Guest, name: str, pattern: tuple[str, str, int], runtime_s: int) -> dict[str, float]:
    """A run in which all was replicated. Ours goes on alone where the other side is silent for long, as on a machine that has no time for
    its guest: such a run is worth nothing, and made again."""
    if name not in LEASEHOLD:
        return _fio(guest, DEVICES[name], pattern, runtime_s)
    said = f"/run/{LEASEHOLD[name][2]}-here.out"
    partings = f"grep -c 'out of sync' {said}"
    for _ in range(RUNS_MAX):
        guest.until(f"tail -n 1 {said} | grep -q '^in sync'", 120)
        before = guest.run(partings, code=None)
        found = _fio(guest, DEVICES[name], pattern, runtime_s)
        if guest.run(partings, code=None) == before:
            return found
        print(f"{name} was alone for a while: made again", file=sys.stderr)
    raise AssertionError(f"{name} was alone for a while in each of {RUNS_MAX} runs: this machine has no time for its guest")


def _fio(guest: Guest, device: str, pattern: tuple[str, str, int], runtime_s: int) -> dict[str, float]:
    rw, size, depth = pattern
    command = (
        f"fio --name=b --filename={device} --direct=1 --ioengine=libaio --rw={rw} --bs={size} --iodepth={depth} --size={AREA}"
        f" --time_based --runtime={runtime_s} --ramp_time={RAMP_S} --randrepeat=0 --norandommap --output-format=json"
    )
    said = guest.run(command, limit_s=120 + runtime_s)
    told = json.loads(said[said.index("{") :])["jobs"][0]["write"]
    return {"iops": told["iops"], "mean_us": told["clat_ns"]["mean"] / 1000, "p99_us": told["clat_ns"]["percentile"]["99.000000"] / 1000}


def _report(samples: Samples, rounds: int, accel: str, busy: float) -> int:
    rows, missed, told = [], [], {}
    for pattern in PATTERNS:
        title = f"{pattern[0].removeprefix('rand')} {pattern[1]} QD{pattern[2]}"
        for name in DEVICES:
            runs = samples[pattern, name]
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            spread = [run["iops"] for run in runs]
            remarks = []
            for other, goal in GOALS.items() if name in OURS else ():
                ratios = sorted(ours["iops"] / theirs["iops"] for ours, theirs in zip(runs, samples[pattern, other], strict=True))
                ratio = statistics.median(ratios)
                remarks.append(f"{ratio:.2f} of {other} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
                told[f"{title}, {name} to {other}"] = round(ratio, 3)
                if name == JUDGED and ratio < goal:
                    missed.append(f"{title}: {ratio:.2f} of {other}, {goal} wanted")
            rows.append([title, name, f"{middle['iops']:.0f}", f"{min(spread):.0f}-{max(spread):.0f}", f"{middle['mean_us']:.0f}", f"{middle['p99_us']:.0f}", ", ".join(remarks)])
            told[f"{title}, {name}"] = {key: round(value, 1) for key, value in middle.items()}
    print(f"\none guest by {accel}, both sides in it, {rounds} rounds, medians:\n")
    print(table(["", "pair", "requests/s", "from-to", "mean us", "p99 us", ""], rows))
    print(f"\n  the machine was {busy} % busy")
    if accel == "tcg":
        print("  by software emulation: what each pair costs in instructions, at 8 ns each; not what it makes of caches, disks and networks")
    for miss in missed:
        print(f"  missed: {miss}")
    print(json.dumps({"guests": told, "accel": accel, "rounds": rounds, "busy_percent": busy, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
