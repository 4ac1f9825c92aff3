"""All parts put together, and what the packet plane sees of them."""

from __future__ import annotations

import json
import secrets
import shutil
import string
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from moto.ssm.models import ssm_backends

from . import ACCOUNT, control, ec2_power, ec2_routes, selfcheck
from .audit import AuditLog
from .cloudformation import custom
from .cloudformation.api import CloudFormationApi
from .cloudformation.engine import Engine
from .cloudformation.template import TemplateError
from .credentials import Credentials
from .events import Events
from .faults import Faults
from .frontdoor import FrontDoor
from .http_server import HttpServer, Request, Response
from .imds import Imds
from .knobs import KnobBoard
from .lambda_host import LambdaHost
from .lateness import Lateness
from .plane_api import Plane
from .snapshot import find_instance, instance_entry, snapshot
from .timeline import Timeline


def run_id() -> str:
    """Four characters: namespaces' and interfaces' names are short."""
    return secrets.choice(string.ascii_lowercase) + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(3))


def ssm_parameter(region: str, name: str) -> str:
    found = ssm_backends[ACCOUNT][region].get_parameter(name)
    if found is None:
        raise TemplateError(f"Unable to fetch parameters [{name}] from parameter store for this account.")
    return found.value


class LocalCloud:
    def __init__(self, *, port: int = 0, run: str | None = None, state_dir: Path | None = None, region: str = "ap-northeast-1", quiet: bool = False):
        selfcheck.check()
        self.run, self.region, self.quiet = run or run_id(), region, quiet
        self.keep_state = state_dir is not None
        self.state_dir = state_dir or Path(tempfile.mkdtemp(prefix=f"lc{self.run}-"))
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.started = time.time()
        self.revision = 0
        self.plane: Plane | None = None
        self.problems: dict[str, int] = {}
        self.port = 0
        self.knobs = KnobBoard()
        self.timeline = Timeline(lambda text: self.log("callback failed", detail=text))
        self.credentials = Credentials()
        self.audit = AuditLog()
        self.lateness = Lateness()
        self.faults = Faults()
        self.host = LambdaHost(credentials=self.credentials, knobs=self.knobs, timeline=self.timeline, directory=self.state_dir / "lambda",
                               endpoint=lambda: f"http://localhost:{self.port}", log=self.log)  # fmt: skip
        self.events = Events(knobs=self.knobs, faults=self.faults, timeline=self.timeline, host=self.host, log=self.log)
        self.power = ec2_power.Power(knobs=self.knobs, timeline=self.timeline, events=self.events, changed=self.ec2_changed, log=self.log)
        self.door = FrontDoor(port=lambda: self.port, credentials=self.credentials, faults=self.faults, knobs=self.knobs, audit=self.audit, host=self.host,
                              ec2_changed=self.ec2_changed, lateness=self.lateness, log=self.log)  # fmt: skip
        self.imds = Imds(credentials=self.credentials, knobs=self.knobs, log=self.log)
        self.server = HttpServer(self.answer, "api", lambda text: self.log("request broke the local cloud", trace=text))
        self.imds_server = HttpServer(self.imds.answer, "imds", lambda text: self.log("IMDS broke", trace=text))
        self.engine = Engine(clients=self.clients, ssm=ssm_parameter, log=self.log)
        CloudFormationApi.engine = self.engine
        self.custom = custom.install(host=self.host, base=lambda: f"http://localhost:{self.port}", stack_id=lambda region, name: self.engine.find(region, name).id)
        self._clients: dict[tuple[str, str, str | None], tuple[float, Any]] = {}
        self._clients_lock = threading.Lock()
        self._newest: dict[str, Any] | None = None
        self._wake = threading.Condition()
        self.closed = False
        ec2_routes.install(self.knobs)
        ec2_power.install(self.power)
        self.events.start()
        self.lateness.start()
        self.port = self.server.listen("127.0.0.1", port)

    def answer(self, request: Request) -> Response:
        if request.raw_path.startswith(custom.PATH):
            taken = self.custom.answered(request.raw_path.removeprefix(custom.PATH), request.body)
            return Response(200 if taken else 403)
        if request.raw_path.startswith(control.PREFIX):
            return control.answer(self, request)
        return self.door.answer(request)

    def clients(self, region: str, role_arn: str | None) -> Callable[[str], Any]:
        """boto3 clients on this very cloud, as a stack's role (or as the operator)."""

        def client(service: str) -> Any:
            with self._clients_lock:
                end, found = self._clients.get((region, service, role_arn), (0.0, None))
                if time.time() < end:
                    return found
                keys = {"aws_access_key_id": "cloudformation", "aws_secret_access_key": "cloudformation"}
                if role_arn is not None:
                    issued = self.credentials.issue(role_arn, "AWSCloudFormation", 3600, {})
                    keys = {"aws_access_key_id": issued["AccessKeyId"], "aws_secret_access_key": issued["SecretAccessKey"], "aws_session_token": issued["Token"]}
                session = boto3.session.Session(region_name=region, **keys)
                config = Config(retries={"max_attempts": 0}, max_pool_connections=4, s3={"addressing_style": "path"})
                found = session.client(service, endpoint_url=f"http://localhost:{self.port}", config=config)
                self._clients[(region, service, role_arn)] = (time.time() + 3000, found)
                return found

        return client

    # --- the plane ---

    def attach(self, plane: Plane) -> None:
        """Starts the plane and listens inside it."""
        self.plane = plane
        where = plane.start()
        self.server.listen(where.api_address, self.port, where.netns)
        self.imds_server.listen(where.imds_address, 80, where.netns)
        self.power.hook = self._power_hook
        plane.on_change(self.describe())
        threading.Thread(target=self._tell_plane, name="plane-changes", daemon=True).start()

    def _power_hook(self, what: str, instance_id: str, force: bool) -> None:
        entry = self.instance(instance_id)
        assert self.plane is not None and entry is not None
        if what == "stop":
            self.plane.on_stop(entry, force)
        elif what == "terminate":
            self.plane.on_terminate(entry, force)
        else:
            {"run": self.plane.on_run, "start": self.plane.on_start, "reboot": self.plane.on_reboot}[what](entry)

    def ec2_changed(self) -> None:
        self.revision += 1
        if self.plane is None:
            return
        seen = self.describe()

        def deliver() -> None:
            with self._wake:
                if self._newest is None or self._newest["revision"] < seen["revision"]:
                    self._newest = seen
                self._wake.notify()

        self.timeline.after(self.knobs.route_propagation_ms / 1000, deliver) if self.knobs.route_propagation_ms else deliver()

    def _untold(self, told: int) -> bool:
        return self._newest is not None and self._newest["revision"] > told

    def _tell_plane(self) -> None:
        told = -1
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self.closed or self._untold(told))  # noqa: B023 (called in this very turn)
                if self.closed:
                    return
                assert self._newest is not None and self.plane is not None
                newest = self._newest
            told = newest["revision"]
            try:
                self.plane.on_change(newest)
            except Exception as error:
                self.power.hook_errors += 1
                self.log("plane did not follow a change", revision=told, error=repr(error))

    # --- plane_api.Cloud ---

    def describe(self) -> dict[str, Any]:
        return snapshot(self.revision)

    def instance(self, instance_id: str) -> dict[str, Any] | None:
        found = find_instance(instance_id)
        return {**instance_entry(found[1]), "region": found[0]} if found else None

    def powered_off(self, instance_id: str, reason: str) -> None:
        found = find_instance(instance_id)
        if found:
            self.power.powered_off(found[1], reason)

    def log(self, text: str, **fields: Any) -> None:
        self.problems[text] = self.problems.get(text, 0) + 1
        if not self.quiet:
            line = json.dumps({"t": round(time.time(), 3), "lc": self.run, "message": text, **fields}, default=str)
            sys.stderr.write(line + "\n")  # one write: lines of several threads do not mix
            sys.stderr.flush()

    # ---

    def health(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "port": self.port,
            "region": self.region,
            "uptime_s": round(time.time() - self.started, 3),
            "moto": selfcheck.MOTO,
            "plane": self.plane is not None,
            "plane_errors": self.power.hook_errors,
            "calls": self.door.calls,
            "calls_by_action": dict(sorted(self.door.counts.items())),
            "deliveries": self.events.deliveries,
            "deliveries_refused": self.events.refused,
            "invocations": self.host.sequence,
            "audit": self.audit.sequence,
            "messages": dict(self.problems),
        }

    def close(self) -> None:
        """Functions first: nothing of theirs may outlive the cloud."""
        with self._wake:
            if self.closed:
                return
            self.closed = True
            self._wake.notify_all()
        self.faults.remove(None)
        self.events.close()
        self.host.close()
        self.timeline.close()
        self.lateness.close()
        if self.plane is not None:
            try:
                self.plane.stop()
            except Exception as error:
                self.log("plane did not stop cleanly", error=repr(error))
        self.server.close()
        self.imds_server.close()
        if not self.keep_state:
            shutil.rmtree(self.state_dir, ignore_errors=True)
