"""The inside of an instance or host: a namespace, a cgroup, and programs supervised as systemd would.

    off --power_on--> on --shut_down (SIGTERM, grace)--> off
                      on --power_off (SIGKILL to all, no word to anyone)--> off

The network link is the plane's business: a real power cut takes the link first, so that dying processes cannot even
close their connections.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from . import netns
from .cgroup import Cgroup
from .netns import PlaneError

DEFAULT_GRACE_MS = 10_000  # systemd's is 90 s; no test waits so long
DEFAULT_RESTART_DELAY_MS = 100  # systemd's RestartSec=
GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# A machine has its own mounts: what its programs mount is there for all of them, also for one that is started again, and is
# gone when it is off; and each boot has an id of its own. `slave`: it follows unmounts of the root namespace, else it would
# keep removed network namespaces alive. It lives until its standard input ends, so also no longer than this process.
KEEP_MOUNTS = ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-c",
               f'mount --bind "$0" {BOOT_ID} && echo made && exec cat']
ENTER = ["sh", "-c", 'cgroup="$0" && cd "$1" && shift && echo $$ > "$cgroup/cgroup.procs" && exec "$@"']


@dataclass(frozen=True)
class ProgramSpec:
    """A unit file's worth of knobs."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    restart: str = "no"  # no | on-failure | always
    restart_delay_ms: int = DEFAULT_RESTART_DELAY_MS
    kill_mode: str = "mixed"  # mixed: SIGTERM to the main process, then SIGKILL to all. control-group: SIGTERM to all. process: only the main one
    grace_ms: int = DEFAULT_GRACE_MS
    enabled: bool = True  # started at boot

    @staticmethod
    def parse(body: Any) -> "ProgramSpec":
        if not isinstance(body, dict):
            raise ValueError(f"a program is an object, not {body!r}")
        known = set(ProgramSpec.__dataclass_fields__)
        problems = [f"unknown key {key!r} (known: {', '.join(sorted(known))})" for key in body if key not in known]
        if not isinstance(body.get("name"), str) or not body.get("name") or "/" in body.get("name", "/"):
            problems.append("name: a string without / is needed")
        command = body.get("command")
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            problems.append("command: a list of strings is needed")
        if body.get("restart", "no") not in ("no", "on-failure", "always"):
            problems.append(f"restart: {body['restart']!r} is none of no, on-failure, always")
        if body.get("kill_mode", "mixed") not in ("mixed", "control-group", "process"):
            problems.append(f"kill_mode: {body['kill_mode']!r} is none of mixed, control-group, process")
        if problems:
            raise ValueError("; ".join(problems))
        return ProgramSpec(**{**body, "command": tuple(command)})


class Program:
    """One supervised program. `start` and `stop` are idempotent."""

    def __init__(self, spec: ProgramSpec, machine: "Machine"):
        self.spec = spec
        self.machine = machine
        self.cgroup = machine.cgroup.child(spec.name)
        self.log_path = machine.log_dir / f"{machine.name}-{spec.name}.log"
        self.starts = 0
        self.exits: list[dict[str, Any]] = []
        self._process: subprocess.Popen | None = None
        self._stopping = threading.Event()
        self._spawning = threading.Lock()  # no restart slips in between "no more restarts" and the kill
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread and self._thread.is_alive():
            if not self._stopping.is_set():
                return
            # Told to end and not gone yet: this start counts for what comes after.
            self._join()
        self._stopping = threading.Event()
        self._spawn()  # here, so that a command that cannot start fails the caller
        self._thread = threading.Thread(target=self._supervise, name=f"{self.machine.name}/{self.spec.name}", daemon=True)
        self._thread.start()

    def stop(self, hurry: threading.Event) -> None:
        """As `systemctl stop`: SIGTERM, grace, SIGKILL to what is left. `hurry` ends the grace at once."""
        self.forget()
        if self._process and self._process.poll() is None:
            if self.spec.kill_mode == "control-group":
                self._signal_all(signal.SIGTERM)
            else:
                self._process.send_signal(signal.SIGTERM)
            until = time.monotonic() + self.spec.grace_ms / 1000
            while self._process.poll() is None and time.monotonic() < until and not hurry.is_set():
                time.sleep(0.005)
        self.cgroup.kill()
        self._join()

    def forget(self) -> None:
        """The power is gone: no restart, no signal (the machine's cgroup is killed as a whole)."""
        with self._spawning:
            self._stopping.set()

    def bury(self) -> None:
        """A process that was started in the last instant and had not entered its cgroup when that was killed."""
        if self.running():
            self._process.kill()

    def kill(self, signal_number: int, everything: bool, hold: bool = False) -> list[int]:
        """A signal from outside, as an operator or the OOM killer would send: the supervisor then does what it does;
        with `hold` nothing: it is masked and stays down until it is started again."""
        if hold:
            self.forget()
        pids = self.cgroup.pids() if everything else ([self._process.pid] if self.running() else [])
        if everything and signal_number == signal.SIGKILL and pids:
            self.cgroup.kill()
            return pids
        for pid in pids:
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                pass  # it ended meanwhile
        return pids

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def state(self) -> dict[str, Any]:
        return {"running": self.running(), "pid": self._process.pid if self.running() else None, "pids": self.cgroup.pids(),
                "starts": self.starts, "exits": self.exits[-20:], "log": str(self.log_path), "cgroup": str(self.cgroup.path)}

    def _spawn(self) -> None:
        self.cgroup.create()
        self.starts += 1
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.machine.spawn_command(self.cgroup, list(self.spec.command), self.spec.directory),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.machine.env | self.spec.env,
                start_new_session=True,
            )

    def _supervise(self) -> None:
        while True:
            status = self._process.wait()
            self.exits.append({"status": status, "monotonic": time.monotonic(), "pid": self._process.pid})
            if self._stopping.is_set():
                return
            self.machine.log(f"program {self.spec.name} ended", status=status, restart=self.spec.restart)
            if self.spec.kill_mode != "process":
                self.cgroup.kill()  # systemd starts a unit only after the rest of its control group is gone
            if self.spec.restart == "no" or (self.spec.restart == "on-failure" and status == 0):
                return
            if self._stopping.wait(self.spec.restart_delay_ms / 1000):
                return
            try:
                with self._spawning:
                    if self._stopping.is_set():
                        return
                    self._spawn()
            except OSError as error:
                self.machine.log(f"program {self.spec.name} cannot be restarted", error=str(error))
                return

    def _signal_all(self, number: int) -> None:
        for pid in self.cgroup.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def _join(self) -> None:
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)


class Machine:
    def __init__(self, name: str, namespace: str, cgroup: Cgroup, log_dir: Path, env: dict[str, str], log: Callable[..., None]):
        self.name = name
        self.namespace = namespace
        self.cgroup = cgroup
        self.log_dir = log_dir
        self.env = {"PATH": GUEST_PATH, "HOME": "/root", "LANG": "C.UTF-8"} | env
        self.log = lambda text, **fields: log(text, machine=name, **fields)
        self.programs: dict[str, Program] = {}
        self.on = False
        self.boots = 0
        self._boot_id_path = log_dir.parent / "boot" / name
        self._mounts: subprocess.Popen | None = None
        self.frozen = False
        self.transition = threading.RLock()  # one power change at a time
        self.hurry = threading.Event()  # set by a power cut: ends the grace of a shutdown under way

    def register(self, specs: list[ProgramSpec]) -> None:
        """What the disk holds from now on. Programs that run keep running as they were started until stopped."""
        kept = {name: program for name, program in self.programs.items() if program.running()}
        self.programs = kept | {spec.name: Program(spec, self) for spec in specs if spec.name not in kept}
        changed = [spec.name for spec in specs if spec.name in kept and kept[spec.name].spec != spec]
        if changed:
            raise PlaneError(f"{self.name}: {', '.join(changed)} runs with another definition; stop it before changing it")

    def program(self, name: str) -> Program:
        if name not in self.programs:
            raise PlaneError(f"{self.name} has no program {name!r}; registered: {', '.join(self.programs) or 'none'}")
        return self.programs[name]

    def power_on(self) -> None:
        """The namespace and link exist. Starts what is enabled."""
        self.cgroup.create()
        self.on = True
        self.boots += 1
        self._boot_id_path.parent.mkdir(parents=True, exist_ok=True)
        self._boot_id_path.write_text(f"{uuid.uuid4()}\n")
        self._make_mounts()
        self.frozen = False
        self.hurry.clear()
        for program in self.programs.values():
            if program.spec.enabled:
                program.start()

    def shut_down(self) -> None:
        """Orderly: all programs are told at once, each has its grace."""
        threads = [threading.Thread(target=program.stop, args=(self.hurry,)) for program in self.programs.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def power_off(self) -> None:
        for program in self.programs.values():
            program.forget()
        self.on = False
        self.cgroup.kill()
        for program in self.programs.values():
            program.bury()
        self._drop_mounts()
        self.frozen = False
        if self.cgroup.path.exists():
            self.cgroup.thaw()

    def freeze(self) -> None:
        self.cgroup.freeze()
        self.frozen = True

    def thaw(self) -> None:
        self.cgroup.thaw()
        self.frozen = False

    def spawn_command(self, cgroup: Cgroup, command: list[str], directory: str = "/") -> list[str]:
        """`command` inside: this boot's mounts, the network, the cgroup. The process id stays the same throughout."""
        if self._mounts is None:
            raise PlaneError(f"{self.name} is off")
        spaces = ["nsenter", f"--mount=/proc/{self._mounts.pid}/ns/mnt", f"--net={netns.path(self.namespace)}", "--"]
        return [*spaces, *ENTER, str(cgroup.path), directory, *command]

    def _make_mounts(self) -> None:
        self._drop_mounts()
        self._mounts = subprocess.Popen([*KEEP_MOUNTS, str(self._boot_id_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._mounts.stdout
        if self._mounts.stdout.readline() != b"made\n":
            raise PlaneError(f"{self.name}: no mount namespace could be made; see the local cloud's own log")

    def _drop_mounts(self) -> None:
        """After everything that runs there: what is mounted goes with the last who sees it."""
        if self._mounts is not None:
            self._mounts.communicate(timeout=30)
            self._mounts = None

    def execute(self, command: list[str], timeout_ms: int, env: dict[str, str]) -> dict[str, Any]:
        """Run a command to its end inside; it is part of the machine (a power cut kills it)."""
        group = self.cgroup.child("exec")
        group.create()
        try:
            done = subprocess.run(self.spawn_command(group, command), stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=timeout_ms / 1000, env=self.env | env, start_new_session=True)
        except subprocess.TimeoutExpired as error:
            raise PlaneError(f"{self.name}: {command} did not end within {timeout_ms} ms") from error
        return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def state(self) -> dict[str, Any]:
        return {"namespace": self.namespace, "cgroup": str(self.cgroup.path), "on": self.on, "frozen": self.frozen, "boots": self.boots,
                "programs": {name: program.state() for name, program in self.programs.items()}}
