"""Replicas that are kept equal by hand: `leasehold-volume create` and `serve --peer` or `--listen`."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

from .server import BINARY, run

CHUNK = 64 << 10


class Replica:
    """One replica in `folder`: its data, its metadata, and the process that serves or follows."""

    def __init__(self, folder: Path, name: str, *, size: int = 16 << 20, lineage: str = "test", create: bool = True, log: str = "debug"):
        self.folder, self.name, self.log_filter = folder, name, log
        self.backing, self.metadata = folder / f"{name}.img", folder / f"{name}.meta"
        self.socket, self.log, self.admin = folder / f"{name}.sock", folder / f"{name}.log", folder / f"{name}.adm"
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self.heard: list[str] = []
        if not self.backing.exists():
            with self.backing.open("wb") as file:
                file.truncate(size)
        if create:
            run(BINARY, "create", "--backing", self.backing, "--metadata", self.metadata, "--lineage", lineage)

    def _start(self, *args: str) -> None:
        self.heard = []
        with self.log.open("a") as log:
            self.process = subprocess.Popen([str(BINARY), "serve", "--backing", str(self.backing), "--metadata", str(self.metadata), "--admin", str(self.admin), *args],
                                            stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, env={**os.environ, "LEASEHOLD_LOG": self.log_filter})

    def follow(self, *args: str) -> Replica:
        self._start("--listen", f"127.0.0.1:{self.port}", *args)
        self.port = int(self.hears("following at").split(" as ")[0].rsplit(":", 1)[1])
        return self

    def lead(self, *peers: Replica, args: tuple[str, ...] = ()) -> Replica:
        self._start("--socket", str(self.socket), *(word for peer in peers for word in ("--peer", f"127.0.0.1:{peer.port}")), *args)
        self.hears("serving ")
        return self

    def hears(self, what: str, limit_s: float = 20) -> str:
        """The next line that the process prints with `what` in it."""
        assert self.process and self.process.stdout
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            if not select.select([self.process.stdout], [], [], until - time.monotonic())[0]:
                break
            line = self.process.stdout.readline()
            if not line:
                break
            self.heard.append(line)
            if what in line:
                return line
        raise AssertionError(f"{self.name} did not say {what!r} but {self.heard}\n{self.log.read_text()[-4000:]}")

    def end(self, how: int = signal.SIGTERM) -> int:
        assert self.process and self.process.stdout
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(20)
        self.process.stdout.close()
        assert "panicked" not in self.log.read_text(), self.log.read_text()[-4000:]
        return code

    def kill(self) -> None:
        assert self.end(signal.SIGKILL) == -signal.SIGKILL

    def ask(self, verb: str, *args: str | Path, code: int | None = 0) -> str:
        """What a verb says that asks the running process."""
        return run(BINARY, verb, *args, "--socket", self.admin, code=code)

    def status(self) -> dict[str, Any]:
        """As its admin socket tells it."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.admin))
            client.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        return json.loads(answer.partition(b"\r\n\r\n")[2])["volumes"]

    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    def dump(self) -> str:
        return run(BINARY, "dump-metadata", "--backing", self.backing, "--metadata", self.metadata)

    def differing_chunks(self) -> int:
        """How many chunks its metadata holds to be different from some peer's."""
        return sum(int(line.split(": ")[1].split()[0]) for line in self.dump().splitlines() if line.startswith("peer "))


# Writes records of 4 KiB at places of its own choosing, a new number each, and tells each one that was acknowledged. Ends when
# told to, or when the server is gone.
WRITER = """
import json, nbd, random, select, sys
uri, seed, depth, blocks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
h = nbd.NBD(); h.connect_uri(uri)
rng, blocks, number = random.Random(seed), blocks or h.get_size() // 4096, seed * 1_000_000
under_way = {}
try:
    while not select.select([sys.stdin], [], [], 0)[0]:
        while len(under_way) < depth:
            number += 1
            place = rng.randrange(blocks)
            if any(place == other for other, _ in under_way.values()):
                continue
            record = (b"%016d" % number) * 256
            cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(record)), place * 4096)
            under_way[cookie] = (place, number)
            print(json.dumps(["asked", place, number]), flush=True)
        h.poll(1000)
        for cookie in list(under_way):
            if h.aio_command_completed(cookie):
                print(json.dumps(["done", *under_way.pop(cookie)]), flush=True)
    while under_way:
        h.poll(1000)
        for cookie in list(under_way):
            if h.aio_command_completed(cookie):
                print(json.dumps(["done", *under_way.pop(cookie)]), flush=True)
except nbd.Error:
    pass
"""


class Writer:
    """A client that writes, and what it was told. `blocks`: only to so many of 4 KiB, from the first on; 0: to all."""

    def __init__(self, replica: Replica, seed: int, depth: int = 8, blocks: int = 0):
        self.log = replica.folder / f"writer-{seed}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["/usr/bin/python3", "-c", textwrap.dedent(WRITER), replica.uri(), str(seed), str(depth), str(blocks)], stdin=subprocess.PIPE, stdout=log)

    def acknowledged(self) -> int:
        return self.log.read_text().count('"done"')

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(30) == 0


class History:
    """What may stand at each place: the last acknowledged record, or one asked for since."""

    def __init__(self) -> None:
        self.allowed: dict[int, set[int]] = {}
        self.acknowledged = 0

    def take(self, writer: Writer) -> None:
        for line in writer.log.read_text().splitlines():
            try:
                what, place, number = json.loads(line)
            except json.JSONDecodeError:
                continue
            if what == "asked":
                self.allowed.setdefault(place, {0}).add(number)
            else:
                self.acknowledged += 1
                # One write at a time for each place: what was there before it is over.
                self.allowed[place] = {number}

    def judge(self, backing: Path) -> None:
        data = backing.read_bytes()
        for place, allowed in self.allowed.items():
            record = data[place * 4096 : (place + 1) * 4096]
            found = int(record[:16]) if record.strip(b"\0") else 0
            assert record == ((b"%016d" % found) * 256 if found else bytes(4096)), f"block {place} is torn"
            assert found in allowed, f"block {place} holds {found}, and may hold {allowed}"
            # What is there now is there for good.
            self.allowed[place] = {found}
