"""Routes of VPC route tables with the semantics AWS documents, where moto's differ."""

from __future__ import annotations

import copy
import ipaddress
import time
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.route_tables import Route, RouteBackend, RouteTable

from .knobs import KnobBoard
from .locks import current_call

TARGETS = ("gateway_id", "instance_id", "nat_gateway_id", "egress_only_igw_id", "transit_gateway_id", "interface_id", "vpc_peering_connection_id",
           "carrier_gateway_id", "vpc_endpoint_id")  # fmt: skip
DEAD_STATES = ("shutting-down", "terminated", "stopped", "stopping")


def target_gone(route: Route) -> bool:
    """True when the route's target isn't available. AWS's words; measured names for ENIs: deleted, not attached, or its
    instance does not run."""
    if route.local:
        return False
    if route.interface is not None:
        eni = route.interface
        if eni.id not in eni.ec2_backend.enis or eni.instance is None:
            return True
        return eni.instance.state in DEAD_STATES
    if route.instance is not None:
        return route.instance.state in DEAD_STATES
    return False


def check_target(backend: Any, table: RouteTable, targets: dict[str, Any]) -> None:
    named = [name for name in TARGETS if targets.get(name)]
    if len(named) != 1:
        raise EC2ClientError("InvalidParameterCombination" if named else "MissingParameter",
                             f"The request must contain exactly one target of the route; it has {named or 'none'}")  # fmt: skip
    eni_id, instance_id = targets.get("interface_id"), targets.get("instance_id")
    if instance_id:
        instance = backend.get_instance(instance_id)
        if instance.vpc_id != table.vpc_id:
            raise EC2ClientError("InvalidParameterValue", f"route table {table.id} and instance {instance_id} belong to different networks")
        if len(instance.nics) > 1:
            raise EC2ClientError("InvalidInstanceID", f"There are multiple interfaces attached to instance '{instance_id}'. "
                                 "Please specify an interface ID for the operation instead.")  # fmt: skip
    if eni_id:
        eni = backend.get_network_interface(eni_id)
        if eni.subnet.vpc_id != table.vpc_id:
            raise EC2ClientError("InvalidParameterValue", f"route table {table.id} and interface {eni_id} belong to different networks")


def check_destination(backend: Any, table: RouteTable, cidr: str | None) -> str | None:
    """The destination in canonical form. A route inside the VPC's own range must be a whole subnet's."""
    if cidr is None:
        return None
    try:
        wanted = ipaddress.IPv4Network(cidr, strict=False)
    except ValueError:
        raise EC2ClientError("InvalidParameterValue",
                             f"Value ({cidr}) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block.") from None  # fmt: skip
    for association in backend.get_vpc(table.vpc_id).get_cidr_block_association_set(ipv6=False):
        own = ipaddress.IPv4Network(association["cidr_block"])
        if wanted.subnet_of(own):
            subnets = [s for by_zone in backend.subnets.values() for s in by_zone.values() if s.vpc_id == table.vpc_id]
            if str(wanted) not in {s.cidr_block for s in subnets}:
                raise EC2ClientError("InvalidParameterValue", f"The destination CIDR block {wanted} is equal to or more specific than one of this "
                                     "VPC's CIDR blocks. This route can target only an interface or an instance, and must match a subnet.")  # fmt: skip
    return str(wanted)


def install(knobs: KnobBoard) -> None:
    original_create, original_replace, original_delete = RouteBackend.create_route, RouteBackend.replace_route, RouteBackend.delete_route
    original_filter = RouteTable.get_filter_value

    def remember(table: RouteTable) -> None:
        """The routes as they are before a write, for readers that are not yet to see it."""
        if knobs.eventual_reads_ms:
            history = table.__dict__.setdefault("_lc_history", [])
            history.append((time.monotonic(), [copy.copy(r) for r in table._routes.values()]))
            del history[:-100]

    def create_route(self: Any, route_table_id: str, destination_cidr_block: str | None = None, *args: Any, **kwargs: Any) -> Route:
        if kwargs.get("local"):
            return original_create(self, route_table_id, destination_cidr_block, *args, **kwargs)
        table = self.get_route_table(route_table_id)
        destination_cidr_block = check_destination(self, table, destination_cidr_block)
        check_target(self, table, kwargs)
        if destination_cidr_block and any(str(r.destination_cidr_block) == destination_cidr_block for r in table._routes.values()):
            raise EC2ClientError("RouteAlreadyExists", f"The route identified by {destination_cidr_block} already exists.")
        wanted_v6 = args[0] if args else kwargs.get("destination_ipv6_cidr_block")
        if wanted_v6 and any(str(r.destination_ipv6_cidr_block) == str(wanted_v6) for r in table._routes.values()):
            raise EC2ClientError("RouteAlreadyExists", f"The route identified by {wanted_v6} already exists.")
        remember(table)
        return original_create(self, route_table_id, destination_cidr_block, *args, **kwargs)

    def replace_route(self: Any, route_table_id: str, destination_cidr_block: str, *args: Any, **kwargs: Any) -> Route:
        table = self.get_route_table(route_table_id)
        targets = dict(kwargs)
        for name, value in zip(("destination_ipv6_cidr_block", "destination_prefix_list_id", "nat_gateway_id", "egress_only_igw_id",
                                "transit_gateway_id"), args, strict=False):  # fmt: skip
            targets.setdefault(name, value)
        if destination_cidr_block:
            try:
                destination_cidr_block = str(ipaddress.IPv4Network(destination_cidr_block, strict=False))
            except ValueError:
                raise EC2ClientError("InvalidParameterValue", f"Value ({destination_cidr_block}) for parameter destinationCidrBlock is invalid. "
                                     "This is not a valid CIDR block.") from None  # fmt: skip
        check_target(self, table, targets)
        remember(table)
        return original_replace(self, route_table_id, destination_cidr_block, *args, **kwargs)

    def delete_route(self: Any, route_table_id: str, *args: Any, **kwargs: Any) -> Route:
        remember(self.get_route_table(route_table_id))
        return original_delete(self, route_table_id, *args, **kwargs)

    def visible(table: RouteTable) -> list[Route]:
        history = table.__dict__.get("_lc_history")
        call = current_call()
        if history and knobs.eventual_reads_ms and call is not None and call.action == "DescribeRouteTables":
            oldest = time.monotonic() - knobs.eventual_reads_ms / 1000
            for at, routes in history:
                if at > oldest:
                    return routes
        return list(table._routes.values())

    def get_filter_value(self: RouteTable, name: str, method_name: str | None = None) -> Any:
        if name.startswith("route."):
            routes = visible(self)
            values = {
                "route.destination-cidr-block": lambda r: r.destination_cidr_block,
                "route.destination-ipv6-cidr-block": lambda r: r.destination_ipv6_cidr_block,
                "route.gateway-id": lambda r: r.gateway_id,
                "route.instance-id": lambda r: r.instance_id,
                "route.nat-gateway-id": lambda r: r.nat_gateway_id,
                "route.transit-gateway-id": lambda r: r.transit_gateway_id,
                "route.vpc-peering-connection-id": lambda r: r.vpc_peering_connection_id,
                "route.origin": lambda r: r.origin,
                "route.state": lambda r: r.state,
            }.get(name)
            if values is None:
                raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
            return [str(v) for r in routes if (v := values(r)) is not None]
        return original_filter(self, name, method_name)

    RouteBackend.create_route = create_route  # type: ignore[method-assign,assignment]
    RouteBackend.replace_route = replace_route  # type: ignore[method-assign,assignment]
    RouteBackend.delete_route = delete_route  # type: ignore[method-assign,assignment]
    RouteTable.routes = property(visible)  # type: ignore[method-assign,assignment]
    RouteTable.get_filter_value = get_filter_value  # type: ignore[method-assign]
    Route.state = property(lambda self: "blackhole" if target_gone(self) else "active")  # type: ignore[method-assign,assignment]
    # A route to an attached ENI also shows the instance behind it.
    Route.instance_id = property(  # type: ignore[method-assign,assignment]
        lambda self: self.instance.id if self.instance else self.interface.instance.id if self.interface is not None and self.interface.instance else None
    )
    Route.network_interface_id = property(  # type: ignore[method-assign,assignment]
        lambda self: self.interface.id if self.interface else self.instance.nics[0].id if self.instance and 0 in self.instance.nics else None
    )
