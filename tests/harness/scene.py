"""One scenario's stage: a healthy cluster with clients, and the judgement at its end.

A scene starts from a cluster in which some node is active and the other in sync; stories speak of `active` and `standby`,
not of a and b. A cluster that the story before left healthy is used as it is, another one is made anew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from . import answers, timeline
from .answers import Gap
from .clients import Clients
from .cloud import Cloud
from .cluster import Cluster, Status
from .judges import EXPECTED_IN_LOGS, Leak, assert_only_functions_changed_network, assert_probed, assert_quiet_logs, assert_single_service, held_up
from .network import Network

HEAL_LIMIT_S = 15  # a cluster that is not whole by itself after this is made anew
START_LIMIT_S = 45
SETTLE_S = 1.2  # a prober's time-out and a little: after it the answers to all requests sent before are known


@dataclass
class Scene:
    cloud: Cloud
    network: Network
    cluster: Cluster
    clients: Clients
    active: str = ""
    standby: str = ""
    epoch: int = 0
    mark: float = 0.0  # CLOCK_MONOTONIC at the story's beginning
    wall_mark: float = 0.0  # the same in wall-clock seconds, as logs state it
    audit_mark: int = 0
    invocation_mark: int = 0
    history_mark: int = 0
    log_marks: dict[str, int] = field(default_factory=dict)
    members: int | None = None  # in the set while all is well; None: every node. Who follows asynchronously never is
    leaks: list[Leak] = field(default_factory=list)
    expected_logs: list[str] = field(default_factory=list)

    def prepare(self) -> "Scene":
        self.calm()
        if not self._whole(HEAL_LIMIT_S):
            self.start_anew()
        status = self.cluster.status()
        assert status.active is not None
        self.active = status.active
        self.standby = next(name for name in self.network.nodes if name != self.active)
        self.epoch = status.epoch
        self.audit_mark = self.cloud.audit_mark()
        self.invocation_mark = max((one["seq"] for one in self.cloud.invocations()), default=0)
        self.history_mark = len(self.cluster.events())
        self.log_marks = {name: len(self.cluster.log(name)) for name in self.network.nodes}
        self.leaks, self.expected_logs = [], []
        self.mark, self.wall_mark = time.monotonic(), time.time()
        return self

    def calm(self) -> None:
        """End every disturbance: faults, cuts, freezes, stopped instances and programs, a pause, an outage."""
        self.cloud.end_fault()
        self.cloud.heal()
        self.cloud.knobs(event_delay_ms=0.0, event_delay_spread_ms=0.0, event_duplicate_probability=0.0, event_drop_probability=0.0,
                         events_outage=False, lambda_outage=False, instance_stop_ms=0)  # fmt: skip
        machines = self.cloud.plane("GET")["machines"]
        states = {one["InstanceId"]: one["State"]["Name"]
                  for page in self.cloud.client("ec2").describe_instances()["Reservations"] for one in page["Instances"]}  # fmt: skip
        for name, node in self.network.nodes.items():
            machine = machines[node.instance]
            if machine["on"] and machine["frozen"]:
                self.cluster.thaw(name)
            if states[node.instance] in ("stopping", "stopped"):
                self.cloud.client("ec2").get_waiter("instance_stopped").wait(InstanceIds=[node.instance], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
                self.cluster.start_instance(name)
            elif not machine["on"]:
                self.cluster.power_back(name)
        self.cloud.client("ec2").get_waiter("instance_running").wait(InstanceIds=[node.instance for node in self.network.nodes.values()], WaiterConfig={"Delay": 1})
        row = self.cluster.row()
        if row and row.get("paused"):
            self.cluster.invoke("resume")
        for name in self.network.nodes:
            self.cluster.kill(name, signal="CONT")
            self.cluster.start(name)

    def bring_back(self, node: str) -> None:
        """Start a stopped instance, and leave faults and cuts as they are."""
        instance = self.network.nodes[node].instance
        ec2 = self.cloud.client("ec2")
        ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        self.cluster.start_instance(node)
        ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})

    def start_anew(self) -> None:
        """As if the cluster had never run."""
        self.cluster.stop()
        self.cluster.forget()
        self.cluster.start()
        self.cluster.wait_serving(in_sync=self.members or len(self.network.nodes), limit_s=START_LIMIT_S)
        assert self._whole(HEAL_LIMIT_S), f"a fresh cluster does not get whole: {self.cluster.status()}, routes {self.cluster.routes()}"

    def _whole(self, limit_s: float) -> bool:
        """Active, all in sync, every route at the active node, and the client is answered by it."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            status = self.cluster.status()
            if status.active and status.in_sync == (self.members or len(self.network.nodes)) and set(self.cluster.routes().values()) == {status.active}:
                now = time.monotonic()
                try:
                    self.clients.client.wait_for(status.active, since=now, limit_s=3)
                    return True
                except AssertionError:
                    pass
            time.sleep(0.2)
        return False

    def expect_in_logs(self, *kinds: str, also: tuple[str, ...] = ()) -> None:
        """What this story does (keys of EXPECTED_IN_LOGS), and patterns of its own."""
        for kind in kinds:
            self.expected_logs += EXPECTED_IN_LOGS[kind]
        self.expected_logs += also

    # ---- what happened since the story began

    def gap(self, since: float | None = None) -> Gap:
        """The client's longest time without an answer, up to now."""
        start = self.mark if since is None else since
        gap = answers.longest_gap(self.clients.client.answers(start), start)
        assert gap is not None, "the client has sent nothing"
        return gap

    def failed_requests(self, settle: bool = True) -> int:
        if settle:
            time.sleep(SETTLE_S)
        return answers.failed(self.clients.client.answers(self.mark))

    def history(self) -> list[dict[str, Any]]:
        return [event["detail"] for event in self.cluster.events()[self.history_mark :]]

    def rules(self) -> list[str]:
        """The numbers of the rules that decided something, in the history's order."""
        found: list[str] = []
        for detail in self.history():
            _collect_rules(detail, found)
        return found

    def invocations(self) -> list[dict[str, Any]]:
        return self.cloud.invocations(self.invocation_mark)

    def taken_over(self, by: str | None = None, limit_s: float = 20) -> Status:
        """Waits until the standby (or `by`) is active and answers the client."""
        node = by or self.standby
        status = self.cluster.wait_serving(node, above_epoch=self.epoch, limit_s=limit_s)
        self.clients.client.wait_for(node, since=self.mark, limit_s=limit_s)
        return status

    def no_takeover(self, for_s: float) -> None:
        """For so long, the active node stays holder in the same epoch."""
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            row = self.cluster.row()
            assert row and row["holder"] and (row["holder"]["node"], row["epoch"]) == (self.active, self.epoch), (
                f"{self.active} held epoch {self.epoch} and must keep it; now {self.cluster.status()}; rules {self.rules()}"
            )
            time.sleep(0.2)

    def whole_again(self, limit_s: float = 30) -> None:
        assert self._whole(limit_s), f"the cluster did not get whole within {limit_s} s: {self.cluster.status()}, routes {self.cluster.routes()}"

    def logs(self) -> dict[str, str]:
        """What the nodes' daemons logged since."""
        return {name: self.cluster.log(name)[mark:] for name, mark in self.log_marks.items()}

    def steps(self) -> dict[str, float]:
        """When (CLOCK_MONOTONIC) the standby was nominated, accepted, activated, ..."""
        seen = timeline.read(self.cloud.audit(self.audit_mark), self.clients.client.answers(self.mark), self.mark, self.cluster.name, self.standby)
        return {step.what: self.mark + step.at for step in seen}

    def held_up(self) -> str | None:
        """What to say of a machine that did not let this story run as it should; nothing if it did."""
        end = time.monotonic()
        time.sleep(SETTLE_S)
        return held_up([one.held_up(self.mark, end) for one in self.clients.all()], end - self.mark)

    def judge(self) -> None:
        """All probers asked all the time, at no moment two nodes answered, only the functions changed the network, and nobody
        warned of the unexpected."""
        end = time.monotonic()
        time.sleep(SETTLE_S)
        assert_single_service(self.clients.pinned_answers(self.mark), self.leaks)
        assert_only_functions_changed_network(self.cloud.audit(self.audit_mark), self.cluster.deployment)
        assert_quiet_logs(self.logs(), self.expected_logs, self.cloud.lateness(self.wall_mark))
        # Last: whoever makes an unwatched story again has not passed over what was seen.
        assert_probed([one.probed(self.mark, end) for one in self.clients.all()], end - self.mark)


def _collect_rules(value: Any, found: list[str]) -> None:
    if isinstance(value, dict):
        for name, one in value.items():
            if name == "rule" and isinstance(one, str):
                found.append(one)
            else:
                _collect_rules(one, found)
    elif isinstance(value, list):
        for one in value:
            _collect_rules(one, found)
