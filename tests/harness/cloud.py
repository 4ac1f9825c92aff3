"""The local cloud as a child process: its APIs, its control API and its end."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from .paths import TESTS

REGION = "ap-northeast-1"
ACCOUNT = "123456789012"
API_IN_PLANE = "10.254.0.2"
READY_LIMIT_S = 60
STOP_LIMIT_S = 30


class CloudError(Exception):
    pass


class Cloud:
    """`with Cloud() as cloud:`. Credentials here are an operator's: allowed everything, named "operator" in the audit log."""

    def __init__(self, plane: bool = True, time_scale: float = 1.0, work: Path | None = None):
        """`work`: where everything of this run is written (logs, nodes' files, answers); kept. Without it a directory of
        its own, removed when the cloud is stopped without an error."""
        self.work = work or Path(tempfile.mkdtemp(prefix="leasehold-"))
        self._own_work = work is None
        self.log_path = self.work / "cloud.log"
        command = [sys.executable, "-m", "localcloud", "--die-with-parent", "--region", REGION, "--time-scale", str(time_scale)]
        command += ["--plane"] if plane else []
        command += ["--state-dir", str(self.work / "cloud")]
        with self.log_path.open("ab") as log_file:
            self.process = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=log_file, start_new_session=True)
        ready = self._ready()
        self.port: int = ready["port"]
        self.run: str = ready["run"]
        self.endpoint = f"http://localhost:{self.port}"
        self.endpoint_in_plane = f"http://{API_IN_PLANE}:{self.port}"
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> "Cloud":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.stop()
        if self._own_work and kind is None:
            shutil.rmtree(self.work, ignore_errors=True)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                # Its namespaces are still there: `python -m localcloud.plane.sweep`, or the next start, removes them.
                raise CloudError(f"the local cloud did not end within {STOP_LIMIT_S} s and was killed; its log: {self.log_path}") from None

    # ---- AWS

    def environment(self) -> dict[str, str]:
        """For the AWS and CDK command lines outside the plane."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service, endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test",
                config=Config(retries={"max_attempts": 1}, read_timeout=120),
            )  # fmt: skip
        return self._clients[service]

    # ---- control

    def control(self, method: str, path: str, body: Any = None, limit_s: float = 120) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/_localcloud/{path}", data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            raise CloudError(f"{method} /_localcloud/{path}: {error.code} {error.read().decode(errors='replace')}") from None

    def plane(self, method: str, path: str = "", body: Any = None) -> Any:
        return self.control(method, f"plane/{path}".rstrip("/"), body)

    def audit(self, after: int = 0) -> list[dict[str, Any]]:
        return self.control("GET", f"audit?after={after}")

    def lateness(self, since: float) -> list[dict[str, Any]]:
        """When the cloud itself was late, in wall-clock seconds."""
        return self.control("GET", f"lateness?since={since}")

    def audit_mark(self) -> int:
        entries = self.audit(0)
        return entries[-1]["seq"] if entries else 0

    def invocations(self, after: int = 0) -> list[dict[str, Any]]:
        return self.control("GET", f"invocations?after={after}")

    def knobs(self, **values: Any) -> dict[str, Any]:
        return self.control("POST", "knobs", values)

    def fault(self, kind: str, **match: Any) -> str:
        """Switch a fault on; returns its id. Kinds: GET /_localcloud/faults/kinds."""
        return self.control("POST", "faults", {"kind": kind, **match})["id"]

    def end_fault(self, fault: str | None = None) -> None:
        self.control("DELETE", f"faults/{fault}" if fault else "faults")

    def cut(self, one: str, other: str, tcp_port: int | None = None, one_way: bool = False) -> list[int]:
        """Names: nodes, hosts, "aws" (the API), "imds", "*" (all but IMDS). `one_way`: only packets from `one` are dropped."""
        body: dict[str, Any] = {"from": one, "to": other} if one_way else {"between": [one, other]}
        return self.plane("POST", "cuts", body | ({"tcp_port": tcp_port} if tcp_port else {}))["ids"]

    def heal(self, ids: list[int] | None = None) -> None:
        for path in ["cuts"] if ids is None else [f"cuts/{one}" for one in ids]:
            self.plane("DELETE", path)

    def settle(self) -> None:
        """Until the packet plane has applied what EC2 describes."""
        self.plane("POST", "settle", {})

    def _ready(self) -> dict[str, Any]:
        until = time.monotonic() + READY_LIMIT_S
        assert self.process.stdout is not None
        while time.monotonic() < until:
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                line = self.process.stdout.readline()
                if line:
                    return json.loads(line)
            if self.process.poll() is not None:
                tail = self.log_path.read_text(errors="replace")[-2000:]
                raise CloudError(f"the local cloud ended with {self.process.returncode} before it was ready; {self.log_path}:\n{tail}")
        os.kill(self.process.pid, 15)
        raise CloudError(f"the local cloud was not ready within {READY_LIMIT_S} s; its log: {self.log_path}")
