"""Instance states, their events, LaunchTime, interfaces: as the EC2 guide's instance lifecycle has them."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from .conftest import Kit, until
from .test_events import ECHO, rule


def states(kit: Kit, function: str, instance: str) -> list[str]:
    return [r["request"]["detail"]["state"] for r in kit.runs(function) if r["request"]["detail"]["instance-id"] == instance]


@pytest.fixture
def watcher(kit: Kit) -> Iterator[str]:
    function = kit.function(ECHO)
    name = rule(kit, function, EventPattern=json.dumps({"source": ["aws.ec2"], "detail-type": ["EC2 Instance State-change Notification"]}))
    yield function
    kit.client("events").remove_targets(Rule=name, Ids=["1"])


def describe(kit: Kit, instance: str) -> dict:
    return kit.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def test_the_life_of_an_instance_and_its_events(kit: Kit, watcher: str) -> None:
    kit.cloud.knobs.set({"instance_stop_ms": 250.0, "instance_start_ms": 150.0})
    ec2 = kit.client("ec2")
    instance = ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1, SubnetId=kit.vpc()["subnets"][0])["Instances"][0]["InstanceId"]
    assert describe(kit, instance)["State"]["Name"] == "pending"
    kit.state(instance, "running")
    out = ec2.stop_instances(InstanceIds=[instance])["StoppingInstances"][0]
    assert (out["PreviousState"]["Name"], out["CurrentState"]["Name"]) == ("running", "stopping")
    assert describe(kit, instance)["State"] == {"Code": 64, "Name": "stopping"}
    kit.state(instance, "stopped")
    out = ec2.stop_instances(InstanceIds=[instance])["StoppingInstances"][0]
    assert out["CurrentState"]["Name"] == "stopped", "stopping a stopped instance changes nothing"
    ec2.start_instances(InstanceIds=[instance])
    kit.state(instance, "running")
    ec2.terminate_instances(InstanceIds=[instance])
    assert describe(kit, instance)["State"]["Name"] == "shutting-down"
    kit.state(instance, "terminated")
    expected = ["pending", "running", "stopping", "stopped", "pending", "running", "shutting-down", "terminated"]
    until(lambda: sorted(states(kit, watcher, instance)) == sorted(expected))
    event = next(r["request"] for r in kit.runs(watcher) if r["request"]["detail"] == {"instance-id": instance, "state": "stopping"})
    assert event["resources"] == [f"arn:aws:ec2:ap-northeast-1:123456789012:instance/{instance}"]


def test_launch_time_changes_at_start_only(kit: Kit) -> None:
    ec2 = kit.client("ec2")
    machine = kit.instance(kit.vpc()["subnets"][0])
    instance, first = machine["InstanceId"], machine["LaunchTime"]
    time.sleep(1.1)
    ec2.stop_instances(InstanceIds=[instance])
    kit.state(instance, "stopped")
    assert describe(kit, instance)["LaunchTime"] == first
    ec2.start_instances(InstanceIds=[instance])
    kit.state(instance, "running")
    assert describe(kit, instance)["LaunchTime"] > first
    assert describe(kit, instance)["PrivateIpAddress"] == machine["PrivateIpAddress"], "the private address stays over stop and start"


def test_wrong_states_are_refused(kit: Kit) -> None:
    kit.cloud.knobs.set({"instance_stop_ms": 300.0})
    ec2 = kit.client("ec2")
    instance = kit.instance(kit.vpc()["subnets"][0])["InstanceId"]
    ec2.stop_instances(InstanceIds=[instance])
    with pytest.raises(ClientError) as refused:
        ec2.start_instances(InstanceIds=[instance])
    assert refused.value.response["Error"]["Code"] == "IncorrectInstanceState"
    with pytest.raises(ClientError) as unknown:
        ec2.stop_instances(InstanceIds=["i-0123456789abcdef0"])
    assert unknown.value.response["Error"]["Code"] == "InvalidInstanceID.NotFound"


def test_an_interface_of_its_own_outlives_the_instance_and_the_automatic_one_does_not(kit: Kit) -> None:
    ec2, net = kit.client("ec2"), kit.vpc()
    eni = ec2.create_network_interface(SubnetId=net["subnets"][0])["NetworkInterface"]["NetworkInterfaceId"]
    kept = ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1, NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": eni}])["Instances"][0]["InstanceId"]
    automatic = kit.instance(net["subnets"][1])
    for instance in (kept, automatic["InstanceId"]):
        kit.state(instance, "running")
        ec2.terminate_instances(InstanceIds=[instance])
        kit.state(instance, "terminated")
    found = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    assert found["Status"] == "available" and "Attachment" not in found
    with pytest.raises(ClientError):
        ec2.describe_network_interfaces(NetworkInterfaceIds=[automatic["NetworkInterfaces"][0]["NetworkInterfaceId"]])


def test_source_dest_check_of_instance_and_primary_interface_are_one(kit: Kit) -> None:
    ec2 = kit.client("ec2")
    machine = kit.instance(kit.vpc()["subnets"][0])
    instance, eni = machine["InstanceId"], machine["NetworkInterfaces"][0]["NetworkInterfaceId"]
    assert machine["SourceDestCheck"] is True
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": False})
    assert describe(kit, instance)["SourceDestCheck"] is False
    ec2.modify_instance_attribute(InstanceId=instance, SourceDestCheck={"Value": True})
    assert ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]["SourceDestCheck"] is True


def test_the_instance_profile_can_be_associated_later(kit: Kit) -> None:
    iam, ec2, name = kit.client("iam"), kit.client("ec2"), "p-" + uuid.uuid4().hex[:8]
    arn = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
    instance = kit.instance(kit.vpc()["subnets"][0])["InstanceId"]
    ec2.associate_iam_instance_profile(InstanceId=instance, IamInstanceProfile={"Name": name})
    assert describe(kit, instance)["IamInstanceProfile"]["Arn"] == arn


def test_a_guests_own_shutdown_stops_or_terminates(kit: Kit, watcher: str) -> None:
    net = kit.vpc()
    stops = kit.instance(net["subnets"][0])["InstanceId"]
    ends = kit.instance(net["subnets"][0], InstanceInitiatedShutdownBehavior="terminate")["InstanceId"]
    for instance in (stops, ends):
        kit.cloud.powered_off(instance, "poweroff")
    assert describe(kit, stops)["State"]["Name"] == "stopped"
    assert describe(kit, ends)["State"]["Name"] == "terminated"
    until(lambda: "stopped" in states(kit, watcher, stops) and "terminated" in states(kit, watcher, ends))


def test_the_machines_hook_decides_when_it_is_stopped(kit: Kit) -> None:
    down, seen = threading.Event(), []

    def hook(what: str, instance_id: str, force: bool) -> None:
        seen.append((what, instance_id, force))
        if what == "stop":
            down.wait(5)

    kit.cloud.power.hook = hook
    try:
        instance = kit.instance(kit.vpc()["subnets"][0])["InstanceId"]
        kit.client("ec2").stop_instances(InstanceIds=[instance], Force=True)
        time.sleep(0.2)
        assert describe(kit, instance)["State"]["Name"] == "stopping"
        down.set()
        kit.state(instance, "stopped")
        assert seen == [("run", instance, False), ("stop", instance, True)]
    finally:
        kit.cloud.power.hook = None


def test_a_broken_hook_is_counted_and_the_state_moves_on(kit: Kit) -> None:
    def hook(what: str, instance_id: str, force: bool) -> None:
        raise RuntimeError("no such machine")

    before = kit.cloud.power.hook_errors
    kit.cloud.power.hook = hook
    try:
        kit.instance(kit.vpc()["subnets"][0])
        assert kit.control("GET", "health")["plane_errors"] == before + 1
    finally:
        kit.cloud.power.hook = None
