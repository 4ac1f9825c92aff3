"""A running cluster: its nodes' programs, its rows, its operator."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from . import network as network_module
from . import node_files
from .cloud import REGION, Cloud
from .network import Network
from .paths import BINARY

PROGRAM = "leasehold"


class InvokeError(Exception):
    """The function itself failed (not: refused with a reason, which is an answer)."""


@dataclass(frozen=True)
class Status:
    """One look at the table: the lease row and the nodes' heartbeats, as plain values; None where there is none."""

    row: dict[str, Any] | None
    heartbeats: dict[str, dict[str, Any] | None]

    @property
    def holder(self) -> str | None:
        return (self.row or {}).get("holder", {}).get("node") if (self.row or {}).get("holder") else None

    @property
    def epoch(self) -> int:
        return (self.row or {}).get("epoch", 0)

    @property
    def active(self) -> str | None:
        """The holder, once it has activated."""
        return self.holder if self.row and self.row.get("activated") else None

    @property
    def in_sync(self) -> int:
        return len((self.row or {}).get("in_sync", ()))

    def __str__(self) -> str:
        if self.row is None:
            return "no lease row"
        roles = ", ".join(f"{name}: {(beat or {}).get('role', 'no heartbeat')}" for name, beat in self.heartbeats.items())
        return f"epoch {self.epoch} holder {self.holder} activated {self.row.get('activated')} in sync {self.in_sync} beat {self.row.get('beat')}; {roles}"


class Cluster:
    def __init__(self, cloud: Cloud, network: Network, deployment: str, name: str = "web", stand_in: bool = False,
                 node_toml: str = "", log: str = "info,aws_config=warn", forget_data: Callable[[Path], None] | None = None):  # fmt: skip
        """`stand_in`: a shell script that is always active in the daemon's place. `node_toml`: more tables for every node.toml.
        `forget_data`: makes the data in a node's folder that of a cluster that has never run."""
        self.cloud, self.network, self.deployment, self.name = cloud, network, deployment, name
        self.stand_in = stand_in
        self.forget_data = forget_data
        self.log_filter = log
        self.files = {
            node: node_files.write(cloud.work / name / node, name, node, deployment, network.virtual_ip, REGION, node_toml) for node in network.nodes
        }

    # ---- programs

    def register(self, start: bool = False) -> None:
        """Put the programs on the instances' disks: from now on every boot starts them."""
        for node in self.network.nodes:
            self.cloud.plane("PUT", f"machines/{self._id(node)}/boot", {"programs": [self._program(node)], "start": start})

    def set_environment(self, node: str, **variables: str) -> None:
        """What the node's daemon finds in its environment from its next start on, besides what all find there."""
        program = self._program(node)
        program["env"] |= variables
        self.cloud.plane("PUT", f"machines/{self._id(node)}/boot", {"programs": [program]})

    def start(self, *nodes: str) -> None:
        for node in nodes or self.network.nodes:
            self.cloud.plane("POST", f"machines/{self._id(node)}/programs/{PROGRAM}/start")

    def stop(self, *nodes: str) -> None:
        """As `systemctl stop leasehold`."""
        for node in nodes or self.network.nodes:
            self.cloud.plane("POST", f"machines/{self._id(node)}/programs/{PROGRAM}/stop")

    def kill(self, node: str, everything: bool = False, signal: str = "KILL", hold: bool = False) -> list[int]:
        """The daemon's process; `everything`: the workload, too, all at once; `hold`: not restarted until `start`."""
        body = {"signal": signal, "everything": everything, "hold": hold}
        return self.cloud.plane("POST", f"machines/{self._id(node)}/programs/{PROGRAM}/kill", body)["pids"]

    def freeze(self, node: str) -> None:
        self.cloud.plane("POST", f"machines/{self._id(node)}/freeze")

    def thaw(self, node: str) -> None:
        self.cloud.plane("POST", f"machines/{self._id(node)}/thaw")

    def power_cut(self, node: str) -> None:
        """Its host dies and EC2 does not know."""
        self.cloud.plane("POST", f"machines/{self._id(node)}/power-cut", {})

    def power_back(self, node: str) -> None:
        self.cloud.plane("POST", f"machines/{self._id(node)}/power-back")

    def stop_instance(self, node: str, force: bool = False) -> None:
        self.cloud.client("ec2").stop_instances(InstanceIds=[self._id(node)], Force=force)

    def start_instance(self, node: str) -> None:
        self.cloud.client("ec2").start_instances(InstanceIds=[self._id(node)])

    def execute(self, node: str, *command: str) -> dict[str, Any]:
        return self.cloud.plane("POST", f"machines/{self._id(node)}/exec", {"command": list(command)})

    def program(self, node: str) -> dict[str, Any]:
        return self.cloud.plane("GET", f"machines/{self._id(node)}")["programs"].get(PROGRAM, {"running": False, "pid": None, "starts": 0, "exits": []})

    def log(self, node: str) -> str:
        path = Path(self.program(node).get("log", "/nonexistent"))
        return path.read_text(errors="replace") if path.exists() else ""

    # ---- table

    def row(self) -> dict[str, Any] | None:
        return self._item(self.name, "lease")

    def heartbeat(self, node: str) -> dict[str, Any] | None:
        item = self._item(f"{self.name}/{node}", "node")
        return json.loads(item["state"]) if item else None

    def status(self) -> Status:
        return Status(self.row(), {node: self.heartbeat(node) for node in self.network.nodes})

    def events(self) -> list[dict[str, Any]]:
        """The history, oldest first."""
        answer = self.cloud.client("dynamodb").query(
            TableName=self.deployment, KeyConditionExpression="#c = :c AND begins_with(#i, :e)",
            ExpressionAttributeNames={"#c": "cluster", "#i": "item"},
            ExpressionAttributeValues={":c": {"S": self.name}, ":e": {"S": "event#"}},
        )  # fmt: skip
        return [{"item": item["item"]["S"], "detail": json.loads(item["detail"]["S"])} for item in answer["Items"]]

    def forget(self) -> None:
        """As if the cluster had never run: no lease row, no heartbeats, nothing in the nodes' state. Only while stopped."""
        table = self.cloud.client("dynamodb")
        table.delete_item(TableName=self.deployment, Key={"cluster": {"S": self.name}, "item": {"S": "lease"}})
        for node, files in self.files.items():
            table.delete_item(TableName=self.deployment, Key={"cluster": {"S": f"{self.name}/{node}"}, "item": {"S": "node"}})
            for path in files.state.iterdir():
                path.unlink()
            if self.forget_data:
                self.forget_data(files.home)

    # ---- waiting

    def wait_until(self, what: str, holds: Callable[[Status], bool], limit_s: float = 30, every_s: float = 0.05) -> Status:
        until = time.monotonic() + limit_s
        while True:
            status = self.status()
            if holds(status):
                return status
            assert time.monotonic() < until, f"{what}: not within {limit_s} s; now {status}"
            time.sleep(every_s)

    def wait_serving(self, node: str | None = None, in_sync: int = 1, above_epoch: int = 0, limit_s: float = 30) -> Status:
        """Until `node` (or any) is active in an epoch above, with that many replicas in sync."""
        return self.wait_until(
            f"{node or 'a node'} active, epoch above {above_epoch}, {in_sync} in sync",
            lambda status: status.active is not None and node in (None, status.active) and status.epoch > above_epoch and status.in_sync >= in_sync,
            limit_s,
        )

    # ---- operator

    def invoke(self, action: str, **more: Any) -> dict[str, Any]:
        """What `aws lambda invoke` answers."""
        payload = {"action": action, "cluster": self.name} | more
        answer = self.cloud.client("lambda").invoke(FunctionName=f"{self.deployment}-failover", Payload=json.dumps(payload).encode())
        content = json.loads(answer["Payload"].read() or b"null")
        if answer.get("FunctionError"):
            raise InvokeError(f"{payload}: {content}")
        return content

    def routes(self) -> dict[str, str]:
        return network_module.routes(self.cloud, self.network)

    # ---- inside

    def _id(self, node: str) -> str:
        return self.network.nodes[node].instance

    def _program(self, node: str) -> dict[str, Any]:
        files = self.files[node]
        command = [str(files.stand_in)] if self.stand_in else [str(BINARY), "node", "--dev", str(files.home), "--config", str(files.config)]
        return {
            # As sidecar/dist/leasehold.service says; only the grace is shorter, because no test waits 90 s.
            "name": PROGRAM, "command": command, "restart": "always", "restart_delay_ms": 1000, "kill_mode": "mixed", "grace_ms": 40_000,
            "env": {"AWS_ENDPOINT_URL": self.cloud.endpoint_in_plane, "AWS_REGION": REGION, "LEASEHOLD_LOG": self.log_filter},
        }  # fmt: skip

    def _item(self, cluster: str, item: str) -> dict[str, Any] | None:
        answer = self.cloud.client("dynamodb").get_item(
            TableName=self.deployment, Key={"cluster": {"S": cluster}, "item": {"S": item}}, ConsistentRead=True,
        )  # fmt: skip
        return {name: plain(value) for name, value in answer["Item"].items()} if "Item" in answer else None


def plain(value: dict[str, Any]) -> Any:
    """A DynamoDB value as a Python one."""
    kind, content = next(iter(value.items()))
    if kind == "N":
        return int(content)
    if kind == "M":
        return {name: plain(one) for name, one in content.items()}
    if kind == "L":
        return [plain(one) for one in content]
    if kind == "SS":
        return set(content)
    if kind == "NULL":
        return None
    return content
