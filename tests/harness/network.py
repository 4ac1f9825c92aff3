"""One VPC in two AZs: a subnet per node, one for clients, route tables that carry the virtual address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cloud import REGION, Cloud

VIP = "10.99.0.10"
ZONES = (f"{REGION}a", f"{REGION}c", f"{REGION}d")
IMAGE = "ami-12c6146b"  # any that the emulator knows; nothing boots from it


@dataclass(frozen=True)
class Node:
    name: str
    instance: str
    eni: str
    address: str
    subnet: str
    zone: str


@dataclass
class Network:
    vpc: str
    nodes: dict[str, Node]
    client_subnet: str
    route_tables: list[str]  # all that carry the virtual address: the nodes' first, then the clients', then further ones
    virtual_ip: str


def create(cloud: Cloud, nodes: tuple[str, ...] = ("a", "b"), virtual_ip: str = VIP, more_route_tables: int = 0,
           source_dest_check: bool = False, number: int = 0) -> Network:  # fmt: skip
    """Routes point at the first node. `source_dest_check=True` leaves it as AWS makes interfaces: on. `number`: the VPC is
    10.<number>.0.0/16."""
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")["Vpc"]["VpcId"]
    _tag(ec2, vpc, "leasehold-test")

    def subnet(third: int, zone: str, name: str) -> str:
        made = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.{number}.{third}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        _tag(ec2, made, name)
        return made

    def table(name: str, subnets: list[str]) -> str:
        made = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        _tag(ec2, made, name)
        for one in subnets:
            ec2.associate_route_table(RouteTableId=made, SubnetId=one)
        return made

    made: dict[str, Node] = {}
    for index, name in enumerate(nodes):
        zone = ZONES[index % len(ZONES)]
        address = f"10.{number}.{index + 1}.10"
        made_in = subnet(index + 1, zone, f"node-{name}")
        eni = ec2.create_network_interface(SubnetId=made_in, PrivateIpAddress=address)["NetworkInterface"]["NetworkInterfaceId"]
        if not source_dest_check:
            ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": False})
        instance = ec2.run_instances(
            ImageId=IMAGE, MinCount=1, MaxCount=1, InstanceType="t3.small",
            NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": eni}],
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
        )["Instances"][0]["InstanceId"]  # fmt: skip
        made[name] = Node(name, instance, eni, address, made_in, zone)
    client_subnet = subnet(100, ZONES[0], "clients")
    tables = [table("nodes", [node.subnet for node in made.values()]), table("clients", [client_subnet])]
    tables += [table(f"more-{index}", []) for index in range(more_route_tables)]
    first = next(iter(made.values()))
    for one in tables:
        ec2.create_route(RouteTableId=one, DestinationCidrBlock=f"{virtual_ip}/32", NetworkInterfaceId=first.eni)
    ec2.get_waiter("instance_running").wait(InstanceIds=[node.instance for node in made.values()], WaiterConfig={"Delay": 1})
    cloud.settle()
    return Network(vpc, made, client_subnet, tables, virtual_ip)


def routes(cloud: Cloud, network: Network) -> dict[str, str]:
    """Where each table sends the virtual address, as EC2 describes it: the node's name, else the target's id."""
    by_eni = {node.eni: node.name for node in network.nodes.values()}
    found = {}
    for table in cloud.client("ec2").describe_route_tables(RouteTableIds=network.route_tables)["RouteTables"]:
        for route in table["Routes"]:
            if route.get("DestinationCidrBlock") == f"{network.virtual_ip}/32":
                target = route.get("NetworkInterfaceId") or route.get("GatewayId") or "?"
                found[table["RouteTableId"]] = by_eni.get(target, target)
    return found


def move_routes(cloud: Cloud, network: Network, node: str) -> None:
    """By hand, as no test of the product does."""
    for table in network.route_tables:
        cloud.client("ec2").replace_route(RouteTableId=table, DestinationCidrBlock=f"{network.virtual_ip}/32",
                                          NetworkInterfaceId=network.nodes[node].eni)  # fmt: skip


def _tag(ec2: Any, resource: str, name: str) -> None:
    ec2.create_tags(Resources=[resource], Tags=[{"Key": "Name", "Value": name}])
