"""What the packet plane is told, with a plane that only writes down."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from localcloud.plane_api import ControlError

from .conftest import REGION, Kit, until


class Notebook:
    """A plane without packets."""

    def __init__(self) -> None:
        self.hooks: list[tuple[Any, ...]] = []
        self.changes: list[dict[str, Any]] = []
        self.down = threading.Event()

    def on_change(self, snapshot: dict[str, Any]) -> None:
        self.changes.append(snapshot)

    def on_run(self, instance: dict[str, Any]) -> None:
        self.hooks.append(("run", instance["id"], instance["state"]))

    def on_start(self, instance: dict[str, Any]) -> None:
        self.hooks.append(("start", instance["id"], instance["state"]))

    def on_stop(self, instance: dict[str, Any], force: bool) -> None:
        self.hooks.append(("stop", instance["id"], force))
        self.down.wait(5)

    def on_terminate(self, instance: dict[str, Any], force: bool) -> None:
        self.hooks.append(("terminate", instance["id"], force))

    def on_reboot(self, instance: dict[str, Any]) -> None:
        self.hooks.append(("reboot", instance["id"]))

    def control(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "refuse":
            raise ControlError(409, "node a is off; start it first")
        return 201, {"method": method, "path": path, "query": query, "body": body}


@pytest.fixture
def plane(kit: Kit):  # type: ignore[no-untyped-def]
    made = Notebook()
    kit.cloud.plane = made  # type: ignore[assignment]
    kit.cloud.power.hook = kit.cloud._power_hook
    kit.cloud._newest = None
    telling = threading.Thread(target=kit.cloud._tell_plane, daemon=True)
    telling.start()
    yield made
    kit.cloud.power.hook = None
    with kit.cloud._wake:
        kit.cloud.closed = True  # ends the telling thread only
        kit.cloud._wake.notify_all()
    telling.join()
    kit.cloud.closed = False
    kit.cloud.plane = None


def newest(plane: Notebook) -> dict[str, Any]:
    return plane.changes[-1]["regions"][REGION]


def test_the_plane_hears_of_every_change(kit: Kit, plane: Notebook) -> None:
    net, ec2 = kit.vpc(), kit.client("ec2")
    machine = kit.instance(net["subnets"][0], "10.0.1.10", TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "a"}]}])
    eni = machine["NetworkInterfaces"][0]["NetworkInterfaceId"]
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock="10.99.0.10/32", NetworkInterfaceId=eni)

    def table() -> dict[str, Any]:
        return next(t for t in newest(plane)["route_tables"] if t["id"] == net["table"])

    route = until(lambda: next((r for r in table()["routes"] if r["destination"] == "10.99.0.10/32"), None))
    assert route == {"destination": "10.99.0.10/32", "kind": "eni", "target": eni, "instance": machine["InstanceId"], "state": "active"}
    assert table()["subnets"] == net["subnets"] and table()["main"] is False
    found = next(i for i in newest(plane)["instances"] if i["id"] == machine["InstanceId"])
    assert {k: found[k] for k in ("name", "state", "vpc", "subnet", "az", "private_ip", "eni", "enis", "source_dest_check", "profile_arn")} == {
        "name": "a", "state": "running", "vpc": net["vpc"], "subnet": net["subnets"][0], "az": REGION + "a", "private_ip": "10.0.1.10", "eni": eni, "enis": [eni],
        "source_dest_check": True, "profile_arn": None}  # fmt: skip
    nic = next(n for n in newest(plane)["network_interfaces"] if n["id"] == eni)
    assert (nic["instance"], nic["device_index"], nic["private_ips"]) == (machine["InstanceId"], 0, ["10.0.1.10"])
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": False})
    until(lambda: not next(i for i in newest(plane)["instances"] if i["id"] == machine["InstanceId"])["source_dest_check"])
    assert [s["revision"] for s in plane.changes] == sorted(s["revision"] for s in plane.changes)
    assert {v["id"] for v in newest(plane)["vpcs"]} >= {net["vpc"]}


def test_power_hooks_and_their_order(kit: Kit, plane: Notebook) -> None:
    ec2 = kit.client("ec2")
    instance = kit.instance(kit.vpc()["subnets"][0])["InstanceId"]
    ec2.reboot_instances(InstanceIds=[instance])
    until(lambda: ("reboot", instance) in plane.hooks)
    ec2.stop_instances(InstanceIds=[instance], SkipOsShutdown=True)
    until(lambda: ("stop", instance, True) in plane.hooks)
    assert kit.cloud.instance(instance)["state"] == "stopping"  # type: ignore[index]
    plane.down.set()
    kit.state(instance, "stopped")
    ec2.start_instances(InstanceIds=[instance])
    kit.state(instance, "running")
    ec2.terminate_instances(InstanceIds=[instance])
    kit.state(instance, "terminated")
    assert [h[0] for h in plane.hooks] == ["run", "reboot", "stop", "start", "terminate"]
    assert plane.hooks[0][2] == "pending" and kit.cloud.instance(instance)["enis"] == []  # type: ignore[index]


def test_route_propagation_is_a_knob(kit: Kit, plane: Notebook) -> None:
    net, ec2 = kit.vpc(), kit.client("ec2")
    eni = ec2.create_network_interface(SubnetId=net["subnets"][0])["NetworkInterface"]["NetworkInterfaceId"]
    kit.cloud.knobs.set({"route_propagation_ms": 300.0})
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock="10.99.0.10/32", NetworkInterfaceId=eni)

    def told() -> bool:
        return any(r["target"] == eni for t in newest(plane)["route_tables"] for r in t["routes"])

    assert not told()
    until(told)


def test_control_requests_are_handed_over(kit: Kit, plane: Notebook) -> None:
    assert kit.control("POST", "plane/nodes/a?x=1", {"boot": ["true"]}) == {"method": "POST", "path": "nodes/a", "query": {"x": "1"}, "body": {"boot": ["true"]}}
    with pytest.raises(AssertionError, match="409: .*node a is off"):
        kit.control("POST", "plane/refuse")
