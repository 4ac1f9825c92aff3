"""A virtual machine: it is told commands by a socket and has no network but the cable to its neighbour."""

from __future__ import annotations

import base64
import os
import select
import shlex
import socket
import subprocess
import tempfile
import time
from pathlib import Path

BOOT_S = 90
VOLUME = "leasehold-volume"


class Failed(AssertionError):
    """A command in a guest did not do what was expected of it."""


class Guest:
    """One guest in `folder`. `number` is its address on the cable, 10.0.0.number; `cable` a pair of UDP ports on 127.0.0.1. `counted`:
    where it is emulated, its clock goes by its instructions, and it has one processor."""

    def __init__(self, folder: Path, image: tuple[Path, Path, Path], accel: str, *, number: int = 1, cable: tuple[int, int] | None = None, disk: int = 320 << 20, memory_mib: int = 512, counted: bool = False):
        # Its own, also beside what an earlier one of this number has left.
        self.folder = Path(tempfile.mkdtemp(prefix=f"guest-{number}-", dir=folder))
        kernel, initramfs, root = image
        self.console = self.folder / "console.log"
        self.disk = self.folder / "disk"
        with self.disk.open("wb") as file:
            file.truncate(disk)
        self.reported: list[str] = []
        self._report_rest = b""
        listeners = [self._listener(name) for name in ("control", "report")]
        # An emulated string instruction goes byte by byte: no program should think that it is fast.
        cpu = "max,erms=off,fsrm=off" if accel == "tcg" else "max"
        command = [
            "qemu-system-x86_64", "-accel", accel, "-cpu", cpu, "-m", str(memory_mib), "-smp", "1" if counted else "2", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(kernel), "-initrd", str(initramfs),
            "-append", f"console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 guest={number}",
            "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console",
            "-drive", f"file={root},format=raw,if=virtio,readonly=on", "-drive", f"file={self.disk},format=raw,if=virtio,cache=unsafe",
            "-device", "virtio-serial",
            "-chardev", f"socket,id=control,path={self.folder}/control", "-device", "virtserialport,chardev=control,nr=1",
            "-chardev", f"socket,id=report,path={self.folder}/report", "-device", "virtserialport,chardev=report,nr=2",
        ]  # fmt: skip
        if counted and accel == "tcg":
            # An instruction takes 8 ns, and who waits for nothing but time does not wait.
            command += ["-icount", "shift=3,sleep=off"]
        if cable:
            command += ["-netdev", f"dgram,id=cable,local.type=inet,local.host=127.0.0.1,local.port={cable[0]},remote.type=inet,remote.host=127.0.0.1,remote.port={cable[1]}"]
            command += ["-device", f"virtio-net-pci,netdev=cable,mac=52:54:00:00:00:{number:02x},romfile="]
        began = time.monotonic()
        self.log = self.folder / "qemu.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.control, self.report = (self._accept(listener) for listener in listeners)
            self._rest = b""
            assert self._line(BOOT_S) == "ready", self.tail()
        except BaseException:
            self.kill()
            raise
        self.boot_s = time.monotonic() - began

    def _listener(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / name))
        listener.listen(1)
        listener.settimeout(20)
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        try:
            return listener.accept()[0]
        except TimeoutError:
            raise Failed(f"qemu does not start: {self.log.read_text()}") from None
        finally:
            listener.close()

    def _line(self, limit_s: float) -> str:
        until = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            if not select.select([self.control], [], [], max(0, until - time.monotonic()))[0]:
                raise Failed(f"no answer within {limit_s} s\n{self.tail()}")
            data = self.control.recv(1 << 16)
            if not data:
                raise Failed(f"the guest is gone\n{self.tail()}")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def run(self, command: str, *, code: int | None = 0, limit_s: float = 60) -> str:
        """What a shell command printed. `code=None`: any exit code."""
        self.control.sendall(base64.b64encode(command.encode()) + b"\n")
        ended, _, text = self._line(limit_s).partition(" ")
        output = base64.b64decode(text).decode(errors="replace")
        if code is not None and int(ended) != code:
            raise Failed(f"{command}: exit code {ended}\n{output}\n{self.tail()}")
        return output

    def exit_code(self, command: str, limit_s: float = 60) -> int:
        return int(self.run(f"({command}) >/dev/null 2>&1; echo $?", limit_s=limit_s))

    def until(self, command: str, limit_s: float = 60) -> str:
        """Waits for a command to succeed."""
        until = time.monotonic() + limit_s
        while self.run(f"({command}) >/tmp/.until 2>&1; echo $?").strip() != "0":
            if time.monotonic() > until:
                raise Failed(f"not within {limit_s} s: {command}\n{self.run('cat /tmp/.until')}\n{self.logs()}\n{self.tail()}")
            time.sleep(0.1)
        return self.run("cat /tmp/.until")

    def reports(self) -> list[str]:
        """The lines that were written to /dev/vport0p2 so far."""
        while self.report.fileno() >= 0 and select.select([self.report], [], [], 0)[0]:
            data = self.report.recv(1 << 16)
            if not data:
                break
            self._report_rest += data
        *lines, self._report_rest = self._report_rest.split(b"\n")
        self.reported += [line.decode() for line in lines]
        return self.reported

    # --- the server ---------------------------------------------------------------------------------------------

    def serve(self, *args: str, hears: str = "serving ", name: str = "server", backing: str = "/dev/vdb", limit_s: float = 60, log: str = "debug") -> str:
        """Starts a server in the background, whose process number is in /run/NAME.pid, and gives the line that it prints."""
        command = shlex.join([VOLUME, "serve", "--backing", backing, *(["--buffered"] if backing.startswith("/run") else []), *args])
        self.run(f"echo '--- {command}' >>/run/{name}.err; LEASEHOLD_LOG={log} {command} >/run/{name}.out 2>>/run/{name}.err & echo $! >/run/{name}.pid")
        self.until(f"grep -q {shlex.quote(hears)} /run/{name}.out || ! kill -0 $(cat /run/{name}.pid)", limit_s)
        printed = self.run(f"cat /run/{name}.out")
        if hears not in printed:
            raise Failed(f"{name} did not say {hears!r}: {printed}\n{self.logs(name)}\n{self.tail()}")
        return next(line for line in printed.splitlines() if hears in line)

    def signal(self, how: str, name: str = "server") -> None:
        self.run(f"kill -{how} $(cat /run/{name}.pid)")

    def ends(self, name: str = "server", limit_s: float = 20) -> None:
        self.until(f"! kill -0 $(cat /run/{name}.pid)", limit_s)

    def logs(self, name: str = "server") -> str:
        return self.run(f"tail -n 60 /run/{name}.out /run/{name}.err 2>/dev/null; true")

    # --- the machine --------------------------------------------------------------------------------------------

    def tail(self) -> str:
        return f"--- console\n{self.console.read_text(errors='replace')[-3000:]}\n--- qemu\n{self.log.read_text()[-1000:]}" if self.console.exists() else self.log.read_text()

    def io_errors(self) -> list[str]:
        """Requests that failed, as the guest's kernel tells."""
        return [line for line in self.run("dmesg").splitlines() if "I/O error" in line]

    def kill(self) -> None:
        """As a power failure, but for what its disk has taken already."""
        self.process.kill()
        self.process.wait(20)
        if hasattr(self, "report") and self.report.fileno() >= 0:
            # What was told before it died counts.
            self.reports()
        for end in ("control", "report"):
            if hasattr(self, end):
                getattr(self, end).close()


def accelerator(image: tuple[Path, Path, Path], folder: Path) -> str:
    """kvm where a guest boots by it, else software emulation."""
    asked = os.environ.get("LEASEHOLD_GUEST_ACCEL")
    if asked:
        return asked
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    global BOOT_S
    usual, BOOT_S = BOOT_S, 20
    try:
        Guest(folder, image, "kvm", number=99).kill()
    except Failed:
        return "tcg"
    finally:
        BOOT_S = usual
    return "kvm"
