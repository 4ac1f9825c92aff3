"""Routes, as the EC2 API reference documents them."""

from __future__ import annotations

import time

import pytest
from botocore.exceptions import ClientError

from .conftest import Kit, until

VIP = "10.99.0.10/32"


def code(call: object, **arguments: object) -> str:
    with pytest.raises(ClientError) as refused:
        call(**arguments)  # type: ignore[operator]
    return refused.value.response["Error"]["Code"]


def routes(kit: Kit, table: str) -> dict[str, dict]:
    found = kit.client("ec2").describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
    return {r["DestinationCidrBlock"]: r for r in found}


def setup(kit: Kit) -> tuple[dict, str, str]:
    net = kit.vpc()
    ec2 = kit.client("ec2")
    enis = [ec2.create_network_interface(SubnetId=s)["NetworkInterface"]["NetworkInterfaceId"] for s in net["subnets"]]
    return net, enis[0], enis[1]


def test_create_replace_and_delete_a_route_to_an_interface(kit: Kit) -> None:
    net, first, second = setup(kit)
    ec2 = kit.client("ec2")
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first)
    assert routes(kit, net["table"])[VIP]["NetworkInterfaceId"] == first
    ec2.replace_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=second)
    assert routes(kit, net["table"])[VIP]["NetworkInterfaceId"] == second
    ec2.delete_route(RouteTableId=net["table"], DestinationCidrBlock=VIP)
    assert VIP not in routes(kit, net["table"])


def test_an_existing_destination_is_route_already_exists(kit: Kit) -> None:
    net, first, second = setup(kit)
    ec2 = kit.client("ec2")
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first)
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=second) == "RouteAlreadyExists"
    assert routes(kit, net["table"])[VIP]["NetworkInterfaceId"] == first


def test_replacing_a_route_that_is_not_there_is_refused(kit: Kit) -> None:
    net, first, _ = setup(kit)
    with pytest.raises(ClientError, match="There is no route defined for"):
        kit.client("ec2").replace_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first)


def test_an_interface_of_another_network_is_refused(kit: Kit) -> None:
    net, first, _ = setup(kit)
    _, foreign, _ = setup(kit)
    ec2 = kit.client("ec2")
    with pytest.raises(ClientError, match="belong to different networks"):
        ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=foreign)
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first)
    with pytest.raises(ClientError, match="belong to different networks"):
        ec2.replace_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=foreign)
    assert routes(kit, net["table"])[VIP]["NetworkInterfaceId"] == first


def test_unknown_tables_and_interfaces(kit: Kit) -> None:
    net, first, _ = setup(kit)
    ec2 = kit.client("ec2")
    assert code(ec2.create_route, RouteTableId="rtb-0000000000000000f", DestinationCidrBlock=VIP, NetworkInterfaceId=first) == "InvalidRouteTableID.NotFound"
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId="eni-0000000000000000f") == "InvalidNetworkInterfaceID.NotFound"
    assert code(ec2.delete_route, RouteTableId=net["table"], DestinationCidrBlock=VIP) == "InvalidRoute.NotFound"


def test_dry_run_changes_nothing_and_says_so(kit: Kit) -> None:
    net, first, second = setup(kit)
    ec2 = kit.client("ec2")
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first, DryRun=True) == "DryRunOperation"
    assert VIP not in routes(kit, net["table"])
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first)
    assert code(ec2.replace_route, RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=second, DryRun=True) == "DryRunOperation"
    assert routes(kit, net["table"])[VIP]["NetworkInterfaceId"] == first


def test_a_dry_run_without_permission_is_unauthorized(kit: Kit) -> None:
    net, first, _ = setup(kit)
    keys = kit.keys([{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}])
    ec2 = kit.client("ec2", keys=keys)
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first, DryRun=True) == "UnauthorizedOperation"


def test_a_destination_inside_the_vpcs_range_must_be_a_subnet(kit: Kit) -> None:
    net, first, _ = setup(kit)
    ec2 = kit.client("ec2")
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock="10.0.1.77/32", NetworkInterfaceId=first) == "InvalidParameterValue"
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock="10.0.2.0/24", NetworkInterfaceId=first)


def test_a_destination_that_is_no_cidr_and_targets_that_are_not_one(kit: Kit) -> None:
    net, first, _ = setup(kit)
    ec2 = kit.client("ec2")
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock="10.99.0.999/32", NetworkInterfaceId=first) == "InvalidParameterValue"
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock=VIP) == "MissingParameter"
    assert code(ec2.create_route, RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first, GatewayId="igw-1") == "InvalidParameterCombination"


def test_filters_by_destination_and_state(kit: Kit) -> None:
    net, first, _ = setup(kit)
    ec2 = kit.client("ec2")
    destination = "10.98.7.6/32"
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=destination, NetworkInterfaceId=first)

    def tables(**names: str) -> list[str]:
        filters = [{"Name": n.replace("_", "."), "Values": [v]} for n, v in names.items()]
        return [t["RouteTableId"] for t in ec2.describe_route_tables(Filters=filters)["RouteTables"]]

    by_destination = [{"Name": "route.destination-cidr-block", "Values": [destination]}]
    assert [t["RouteTableId"] for t in ec2.describe_route_tables(Filters=by_destination)["RouteTables"]] == [net["table"]]
    both = [*by_destination, {"Name": "vpc-id", "Values": [net["vpc"]]}]
    assert [t["RouteTableId"] for t in ec2.describe_route_tables(Filters=both)["RouteTables"]] == [net["table"]]
    assert net["table"] in tables(route_state="blackhole"), "its interface is attached to nothing"
    with pytest.raises(ClientError):
        ec2.describe_route_tables(Filters=[{"Name": "route.colour", "Values": ["red"]}])


def test_a_route_is_a_blackhole_while_its_target_is_not_available(kit: Kit) -> None:
    net = kit.vpc()
    ec2 = kit.client("ec2")
    machine = kit.instance(net["subnets"][0])
    eni, instance = machine["NetworkInterfaces"][0]["NetworkInterfaceId"], machine["InstanceId"]
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=eni)
    found = routes(kit, net["table"])[VIP]
    assert (found["State"], found["InstanceId"], found["NetworkInterfaceId"]) == ("active", instance, eni)
    ec2.stop_instances(InstanceIds=[instance])
    kit.state(instance, "stopped")
    assert routes(kit, net["table"])[VIP]["State"] == "blackhole"
    ec2.start_instances(InstanceIds=[instance])
    kit.state(instance, "running")
    assert routes(kit, net["table"])[VIP]["State"] == "active"
    ec2.terminate_instances(InstanceIds=[instance])
    kit.state(instance, "terminated")
    found = routes(kit, net["table"])[VIP]
    assert (found["State"], found["NetworkInterfaceId"]) == ("blackhole", eni)


def test_eventual_reads_show_the_older_state_for_a_while(kit: Kit) -> None:
    net, first, second = setup(kit)
    ec2 = kit.client("ec2")
    ec2.create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=first)
    kit.cloud.knobs.set({"eventual_reads_ms": 500.0})
    begun = time.monotonic()
    ec2.replace_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, NetworkInterfaceId=second)
    assert routes(kit, net["table"])[VIP]["NetworkInterfaceId"] == first
    until(lambda: routes(kit, net["table"])[VIP]["NetworkInterfaceId"] == second)
    assert 0.4 < time.monotonic() - begun < 1.5
    assert any(r["target"] == second for t in kit.cloud.describe()["regions"]["ap-northeast-1"]["route_tables"] if t["id"] == net["table"] for r in t["routes"])


def test_an_unhonoured_parameter_is_refused_not_ignored(kit: Kit) -> None:
    net, _, _ = setup(kit)
    with pytest.raises(ClientError) as refused:
        kit.client("ec2").create_route(RouteTableId=net["table"], DestinationCidrBlock=VIP, CarrierGatewayId="cagw-1")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert "CarrierGatewayId" in refused.value.response["Error"]["Message"]
