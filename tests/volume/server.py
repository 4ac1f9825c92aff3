"""A volume's server in a folder of its own, and the programs that judge it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Another one for who builds elsewhere.
BINARY = Path(os.environ.get("LEASEHOLD_VOLUME", ROOT / "target/release/leasehold-volume"))
LIMIT_S = 60


class Server:
    """`leasehold-volume serve` on a file in `folder`, on a UNIX socket and, with TLS or asked to, on TCP."""

    def __init__(self, folder: Path, *, size: int = 64 << 20, engine: str | None = None, backing: Path | None = None, tcp: bool = False, tls: Path | None = None, args: tuple[str, ...] = ()):
        self.folder, self.tls = folder, tls
        self.backing = backing or folder / "backing"
        if not self.backing.exists():
            with self.backing.open("wb") as file:
                file.truncate(size)
        self.socket = folder / "nbd.sock"
        self.command = [str(BINARY), "serve", "--backing", str(self.backing), "--socket", str(self.socket)]
        self.command += ["--engine", engine] if engine else []
        self.command += ["--listen-nbd", "localhost:0"] if tcp or tls else []
        if tls:
            self.command += ["--tls-cert", str(tls / "server-cert.pem"), "--tls-key", str(tls / "server-key.pem"), "--tls-ca", str(tls / "ca-cert.pem")]
        self.command += args
        self.log = folder / "server.log"
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> Server:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "LEASEHOLD_LOG": "debug"})
        assert self.process.stdout
        for _ in range(1 + ("--listen-nbd" in self.command)):
            line = self.process.stdout.readline()
            assert line.startswith("serving "), f"{line!r}\n{self.log.read_text()}"
            if " at tcp:" in line:
                self.port = int(line.rsplit(":", 1)[1])
        return self

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, how: int = signal.SIGTERM, limit_s: float = 10) -> int:
        """The exit code; and nothing that the server logged is worse than a look."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert "panicked" not in self.log.read_text(), self.log.read_text()
        return code

    def uri(self, over: str = "unix") -> str:
        match over:
            case "unix":
                return f"nbd+unix:///?socket={self.socket}"
            case "tcp":
                return f"nbd://localhost:{self.port}"
            case "tls":
                return f"nbds://localhost:{self.port}/?tls-certificates={self.tls}"
        raise AssertionError(over)

    def connect(self) -> socket.socket:
        """A bare connection."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(LIMIT_S)
        client.connect(str(self.socket))
        return client

    def is_well(self) -> bool:
        """It still serves who comes."""
        assert self.process and self.process.poll() is None, self.log.read_text()
        return run("nbdinfo", "--size", self.uri()).strip().isdigit() if not self.tls else True


def run(*command: str | Path, code: int | None = 0, limit_s: float = LIMIT_S) -> str:
    """What a program printed. `code=None`: any exit code."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=limit_s, check=False)
    assert code is None or done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if code != 0 else "")


def libnbd(uri: str, script: str, *, structured: bool = True, contexts: tuple[str, ...] = ("base:allocation",)) -> str:
    """Runs Python with libnbd, whose handle `h` is connected (unless `uri` is empty); `fails(name, call)` wants that very error."""
    prelude = f"""
    import errno, nbd, os
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies({structured})
    h.set_uri_allow_local_file(True)
    for context in {contexts!r}:
        h.add_meta_context(context)
    def fails(name, call, *args, **flags):
        try:
            call(*args, **flags)
        except nbd.Error as error:
            assert error.errnum == getattr(errno, name), (name, error)
        else:
            raise AssertionError(f"no {{name}}")
    if {uri!r}:
        h.connect_uri({uri!r})
    """
    # Debian's own interpreter: python3-libnbd is built for it.
    return run("/usr/bin/python3", "-c", textwrap.dedent(prelude) + textwrap.dedent(script))


def wait_until(what: str, condition, limit_s: float = 10) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, f"not within {limit_s} s: {what}"
        time.sleep(0.01)
