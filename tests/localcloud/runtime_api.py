"""One execution environment: a function's process and the Runtime API endpoint it talks to.

    spawning --GET next--> idle (frozen) --invoke--> busy --POST response/error + GET next--> idle
        |                                              |
        +--exit, init/error, init time-out--> dead <---+-- exit, time-out, killed
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .http_server import HttpServer, Request, Response

RUNTIME = "/2018-06-01/runtime/"
INIT_LIMIT_S = 10.0  # AWS's own limit of the init phase
# Dies with us even if we are killed -9. Needs the spawning thread to live on, so one thread spawns them all.
PDEATHSIG = [found, "--pdeathsig", "KILL", "--"] if (found := shutil.which("setpriv")) else []


@dataclass
class Work:
    request_id: str
    payload: bytes
    limit_s: float  # the function's time-out
    deadline: float  # its end, in wall clock seconds as the deadline header wants it
    arn: str


@dataclass
class Outcome:
    body: bytes
    error: str | None  # None, "Unhandled" (the function answered an error), "timeout", "exit", "init", "killed"


class Environment:
    def __init__(self, *, command: Path, variables: dict[str, str], log_path: Path, on_ready: Any, on_dead: Any):
        self.id = uuid.uuid4().hex[:12]
        self.command, self.variables, self.log_path = command, variables, log_path
        self.on_ready = on_ready  # called with self each time the process asks for work
        self.on_dead = on_dead  # called with self once the process has ended
        self.lock = threading.Condition()
        self.work: Work | None = None
        self.current: Work | None = None
        self.outcome: Outcome | None = None
        self.ready = False  # waits in GET next
        self.dead: str | None = None  # why
        self.frozen = False
        self.freeze_between = True
        self.started = time.monotonic()
        self.init_ms: float | None = None
        self.idle_since = 0.0
        self.log_at = 0
        self.access_key = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.server = HttpServer(self._answer, f"runtime-{self.id}")
        self.port = self.server.listen("127.0.0.1", 0)

    # --- the process ---

    def spawn(self) -> None:
        """Called in the spawner thread, with its lock: never while a zip is being unpacked (ETXTBSY)."""
        variables = {**self.variables, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.port}"}
        self.log = open(self.log_path, "ab+")
        self.log_at = self.log.seek(0, 2)
        self.started = time.monotonic()
        try:
            self.process = subprocess.Popen([*PDEATHSIG, str(self.command)], cwd=self.command.parent, env=variables, stdin=subprocess.DEVNULL,
                                            stdout=self.log, stderr=self.log, start_new_session=True)  # fmt: skip
        except OSError as error:
            self._die("init", f"cannot start {self.command}: {error}")
            self.on_dead(self)
            return
        threading.Thread(target=self._reap, name=f"lambda-{self.id}", daemon=True).start()

    def _reap(self) -> None:
        assert self.process
        code = self.process.wait()
        self._die("exit" if self.init_ms is not None else "init",
                  f"RequestId: {self.current.request_id if self.current else '-'} Error: Runtime exited with error: "
                  + (f"exit status {code}" if code >= 0 else f"signal: {signal.Signals(-code).name}"), "Runtime.ExitError")  # fmt: skip
        self.on_dead(self)

    def _die(self, why: str, message: str, kind: str = "Runtime.ExitError") -> None:
        with self.lock:
            if self.dead is None:
                self.dead = why
            if self.outcome is None:
                self.outcome = Outcome(json.dumps({"errorType": kind, "errorMessage": message}).encode(), self.dead)
            self.lock.notify_all()
        self.server.close()

    def kill(self, why: str, message: str, kind: str = "Runtime.ExitError") -> None:
        """The whole process group, at once. Safe to call twice."""
        self._die(why, message, kind)
        if self.process is not None and self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def signal_group(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    def finishing(self) -> bool:
        """Has answered, and has not asked for more work yet."""
        return self.outcome is not None and self.current is None and not self.ready and self.dead is None

    def peak_memory_kb(self) -> int:
        try:
            with open(f"/proc/{self.process.pid}/status") as status:  # type: ignore[union-attr]
                return next((int(line.split()[1]) for line in status if line.startswith("VmHWM")), 0)
        except (OSError, AttributeError):
            return 0

    def new_log(self) -> str:
        self.log.seek(self.log_at)
        data = self.log.read()
        self.log_at += len(data)
        return data.decode("utf-8", "replace")

    # --- its work ---

    def wait_ready(self, seconds: float) -> bool:
        with self.lock:
            return self.lock.wait_for(lambda: self.ready or self.dead, seconds) and self.dead is None

    def invoke(self, work: Work) -> Outcome:
        """Runs one invocation to its end, its deadline, or the process's death."""
        with self.lock:
            if self.dead is None:
                self.outcome, self.work = None, work
                self.current = work
                self.lock.notify_all()
                self.lock.wait_for(lambda: self.outcome is not None, max(0.0, work.deadline - time.time()))
            outcome = self.outcome
        if outcome is None:
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
            self.kill("timeout", f"{now} {work.request_id} Task timed out after {work.limit_s:.2f} seconds", "Sandbox.Timedout")
            outcome = self.outcome
        assert outcome is not None
        return outcome

    def _answer(self, request: Request) -> Response:
        path = request.raw_path
        if path == RUNTIME + "invocation/next":
            return self._next()
        if request.method == "POST" and path.endswith("/init/error"):
            self.kill("init", request.body.decode("utf-8", "replace") or "init error", "Runtime.InitError")
            return Response(202, b'{"status":"OK"}')
        parts = path.removeprefix(RUNTIME + "invocation/").split("/")
        if request.method == "POST" and len(parts) == 2 and parts[1] in ("response", "error"):
            with self.lock:
                if self.current is None or parts[0] != self.current.request_id:
                    return Response(400, b'{"errorType":"InvalidRequestID","errorMessage":"no such invocation is running"}')
                self.outcome = Outcome(request.body, "Unhandled" if parts[1] == "error" else None)
                self.current = None
                self.lock.notify_all()
            return Response(202, b'{"status":"OK"}')
        return Response(404, b'{"errorType":"UnknownEndpoint"}')

    def _next(self) -> Response:
        with self.lock:
            if self.init_ms is None:
                self.init_ms = (time.monotonic() - self.started) * 1000
            self.ready, self.idle_since = True, time.monotonic()
            self.lock.notify_all()
        self.on_ready(self)
        with self.lock:
            if self.work is None and self.dead is None and self.freeze_between:
                self.frozen = True
                self.signal_group(signal.SIGSTOP)  # as AWS freezes an idle environment
            self.lock.wait_for(lambda: self.work is not None or self.dead is not None)
            if self.dead is not None:
                return Response(410, b"{}", close=True)
            work, self.work, self.ready = self.work, None, False
            if self.frozen:
                self.frozen = False
                self.signal_group(signal.SIGCONT)
        assert work is not None
        headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", work.request_id),
            ("lambda-runtime-deadline-ms", str(int(work.deadline * 1000))),
            ("lambda-runtime-invoked-function-arn", work.arn),
            ("lambda-runtime-trace-id", f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0"),
        ]
        return Response(200, work.payload, headers)


def scratch_directory(root: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="fn-", dir=root))
