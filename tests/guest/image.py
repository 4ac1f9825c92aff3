"""What a guest boots: Debian's 6.12 cloud kernel, a first file system that finds the second, and the second with the programs."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Built with ublk, apart from the ordinary build; another one for who builds elsewhere.
BINARY = Path(os.environ.get("LEASEHOLD_VOLUME", ROOT / "target/ublk/release/leasehold-volume"))
CACHE = Path(os.environ.get("LEASEHOLD_GUEST_CACHE", ROOT / "target/guest"))
BUSYBOX = Path("/bin/busybox")
PROGRAMS = ["fio", "sync", "mkfs.ext4", "e2fsck", "mkfs.xfs", "xfs_repair"]
# In the order in which they need each other. nbd and ublk_drv are not among them: the server has them loaded.
MODULES = ["failover", "net_failover", "virtio_net", "virtio_blk", "libcrc32c", "xfs"]
LATE_MODULES = ["nbd", "ublk_drv"]


@dataclass(frozen=True)
class Peers:
    """Others' programs that a guest has besides: Debian packages, unpacked and never installed; which of
    their programs; and modules of the kernel's."""

    packages: tuple[str, ...]
    programs: tuple[str, ...]
    modules: tuple[str, ...]


def _fetch(package: str, to: Path) -> Path:
    """A Debian package's files, fetched once."""
    if not to.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=CACHE, check=True)
        found = next(CACHE.glob(f"{package}_*.deb"))
        partial = to.with_name(f"{to.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg", "-x", str(found), str(partial)], check=True)
        partial.rename(to)
        found.unlink()
    return to


def kernel() -> tuple[Path, Path]:
    """The kernel and its folder of modules: the newest 6.12 cloud kernel that apt knows, fetched once."""
    unpacked = CACHE / "kernel"
    if not unpacked.exists():
        names = subprocess.run(["apt-cache", "search", "--names-only", r"^linux-image-6\.12\.[0-9].*cloud-amd64$"], capture_output=True, text=True, check=True).stdout
        found = sorted((word.split()[0] for word in names.splitlines()), key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
        assert found, "apt knows no linux-image-6.12.*-cloud-amd64: apt-get update, or Debian 12 (security) or 13 among its sources"
        _fetch(found[-1], unpacked)
    return next(unpacked.glob("boot/vmlinuz-*")), next(unpacked.glob("lib/modules/*"))


INIT = """#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /$module.ko || echo "no $module"; done
until [ -b /dev/vda ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -t ext4 -o ro /dev/vda /root
for folder in proc sys dev; do /bin/busybox mount -o move /$folder /root/$folder; done
exec /bin/busybox switch_root /root /init
"""

# One command at a time: its text comes as a line in base64, its exit code and what it printed go back as a line.
AGENT = """#!/bin/sh
export PATH=/bin:/sbin
/bin/busybox mount -t tmpfs run /run
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox mount -t tmpfs mnt /mnt
/bin/busybox mount -t tmpfs var /var
ip link set lo up
[ ! -e /sys/class/net/eth0 ] || { ip addr add 10.0.0.$(cat /proc/cmdline | sed 's/.*guest=\\([0-9]*\\).*/\\1/')/24 dev eth0; ip link set eth0 up; }
until [ -e /dev/vport0p1 ]; do usleep 10000; done
exec 3<>/dev/vport0p1
echo ready >&3
while true; do
    read -r text <&3 || { usleep 10000; continue; }
    echo "$text" | base64 -d >/tmp/.command
    sh /tmp/.command >/tmp/.output 2>&1 </dev/null
    echo "$? $(base64 -w 0 /tmp/.output)" >&3
done
"""


def build(folder: Path, peers: Peers | None = None) -> tuple[Path, Path, Path]:
    """Kernel, first and second file system, with others' programs where they are asked for. Made anew each time: that takes a second, and they are never old."""
    vmlinuz, modules = kernel()
    first = folder / "initramfs"
    files = [("bin/busybox", BUSYBOX.read_bytes()), ("bin/sh", BUSYBOX.read_bytes()), ("init", INIT.format(modules=" ".join(MODULES)).encode())]
    for name in MODULES:
        files.append((f"{name}.ko", _module(modules, name)))
    first.write_bytes(_cpio(["bin"], files))
    second = folder / "root"
    for name in ("bin", "sbin", "lib", "lib64", "usr/bin", "proc", "sys", "dev", "run", "tmp", "mnt", "var", "etc"):
        (second / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, second / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in set(applets) - {"busybox"}:
        (second / "bin" / applet).symlink_to("busybox")
    for applet in ("modprobe", "insmod"):
        (second / "sbin" / applet).symlink_to("/bin/busybox")
    late = second / "lib/modules" / modules.name
    late.mkdir(parents=True)
    for name in [*LATE_MODULES, *(peers.modules if peers else ())]:
        (late / f"{name}.ko").write_bytes(_module(modules, name))
    subprocess.run([BUSYBOX, "depmod", "-b", str(second), modules.name], check=True)
    unpacked = [_fetch(package, CACHE / package) for package in (peers.packages if peers else ())]
    libraries = {**os.environ, "LD_LIBRARY_PATH": ":".join(str(path) for place in unpacked for path in place.glob("**/lib/*-linux-gnu"))}
    theirs = [str(next(path for place in unpacked for path in place.rglob(name) if path.parent.name in ("bin", "sbin", "drbd"))) for name in (peers.programs if peers else ())]
    for name in [*PROGRAMS, *theirs, str(BINARY)]:
        path = Path(shutil.which(name, path=f"{os.environ['PATH']}:/sbin:/usr/sbin") or name)
        target = second / "bin" / path.name
        target.unlink(missing_ok=True)
        shutil.copy(path, target)
        for library in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True, env=libraries).stdout):
            place = second / ("lib64" if library.startswith("/lib64/") else "lib") / Path(library).name
            if not place.exists():
                shutil.copy(library, place)
    (second / "etc/mtab").symlink_to("/proc/mounts")
    (second / "init").write_text(AGENT)
    (second / "init").chmod(0o755)
    root = folder / "root.ext4"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", str(second), str(root), "256M"], check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"})
    shutil.rmtree(second)
    return vmlinuz, first, root


def _module(modules: Path, name: str) -> bytes:
    found = next(path for path in modules.rglob("*.ko*") if path.name.split(".")[0] == name)
    return lzma.decompress(found.read_bytes()) if found.suffix == ".xz" else found.read_bytes()


def _cpio(folders: list[str], files: list[tuple[str, bytes]]) -> bytes:
    """The `newc` format, which the kernel unpacks."""
    out = bytearray()
    entries = [(name, 0o40755, b"") for name in folders] + [(name, 0o100755, data) for name, data in files] + [("TRAILER!!!", 0, b"")]
    for number, (name, mode, data) in enumerate(entries, 1):
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4)
        out += data + bytes(-len(data) % 4)
    return bytes(out)
