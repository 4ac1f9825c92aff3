"""What the router's kernel must know, computed from what EC2 describes. Pure: no namespace, no clock, no process.

One kernel table per described route table; a packet is looked up in the table of the subnet it came from:

    rule 10   from all           -> table 900    the API's and IMDS's addresses (link-local to every instance, as in AWS)
    rule 20   iif <aws link>     -> table 901    every attached address
    rule 90   iif <pinned host>  -> table 5000+  this host's own routes, before its subnet's
    rule 100  iif <link>         -> table 1000+  the route table of the link's subnet

Within a table the kernel's longest prefix is AWS's. The `local` route becomes one /32 per attached address (unless a more
specific described route covers that address, as AWS allows) and a blackhole for the rest of the VPC's range.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable

SERVICES_TABLE = 900
EVERYONE_TABLE = 901
FIRST_ROUTE_TABLE = 1000
FIRST_PIN_TABLE = 5000

RULE_SERVICES = 10
RULE_FROM_SERVICES = 20
RULE_PIN = 90
RULE_SUBNET = 100


@dataclass(frozen=True)
class Port:
    """Something plugged into the router: a powered instance or a host."""

    name: str
    link: str  # the router's end of the veth pair
    subnet: str
    address: str  # the primary address, which the router resolves by a fixed neighbour entry
    addresses: tuple[str, ...]  # all private addresses
    checked: bool  # source/destination check on
    instance: str | None = None
    eni: str | None = None
    pin: tuple[tuple[str, str], ...] = ()  # (destination, name or id of the instance it always goes to)


@dataclass(frozen=True)
class Hop:
    """The next hop of a kernel route; no link means that packets are dropped silently (AWS's blackhole)."""

    link: str | None = None
    via: str | None = None

    def words(self) -> str:
        return f"via {self.via} dev {self.link} onlink" if self.link else ""


BLACKHOLE = Hop()


@dataclass
class Desired:
    routes: dict[tuple[int, str], Hop] = field(default_factory=dict)  # (table, destination) -> hop
    rules: set[tuple[int, str, int]] = field(default_factory=set)  # (preference, link or "" for all, table)
    unsupported: list[str] = field(default_factory=list)  # described, but nothing here can carry it: dropped


def desired(
    region: dict[str, Any],
    vpc: str,
    ports: Iterable[Port],
    table_number: Callable[[str], int],
    services: dict[str, Hop],
    services_link: str,
) -> Desired:
    ports = list(ports)
    out = Desired()
    for address, hop in services.items():
        out.routes[(SERVICES_TABLE, f"{address}/32")] = hop
    out.rules.add((RULE_SERVICES, "", SERVICES_TABLE))
    out.rules.add((RULE_FROM_SERVICES, services_link, EVERYONE_TABLE))

    owners = {address: Hop(port.link, port.address) for port in ports for address in port.addresses}
    for address, hop in owners.items():
        out.routes[(EVERYONE_TABLE, f"{address}/32")] = hop

    by_eni = {port.eni: port for port in ports if port.eni}
    by_instance = {port.instance: port for port in ports if port.instance}
    by_name = {port.name: port for port in ports if port.instance}

    tables = [table for table in region["route_tables"] if table["vpc"] == vpc]
    for table in tables:
        number = table_number(table["id"])
        out.routes[(number, "default")] = BLACKHOLE
        _fill_table(out, number, table, owners, by_eni, by_instance)

    of_subnet = _table_of_subnet(tables)
    main = next((table["id"] for table in tables if table["main"]), None)
    for port in ports:
        table_id = of_subnet.get(port.subnet, main)
        if table_id is not None:
            out.rules.add((RULE_SUBNET, port.link, table_number(table_id)))
        if port.pin:
            number = FIRST_PIN_TABLE + table_number(f"pin of {port.name}") - FIRST_ROUTE_TABLE
            out.rules.add((RULE_PIN, port.link, number))
            for destination, target in port.pin:
                found = by_instance.get(target) or by_name.get(target)
                out.routes[(number, destination)] = Hop(found.link, found.address) if found else BLACKHOLE
    return out


def _fill_table(out, number, table, owners, by_eni, by_instance) -> None:
    described: list[tuple[ipaddress.IPv4Network, dict[str, Any]]] = []
    for route in table["routes"]:
        destination = route["destination"]
        if ":" in destination or "/" not in destination:
            out.unsupported.append(f"{table['id']}: {destination} (only IPv4 prefixes are carried)")
            continue
        described.append((ipaddress.ip_network(destination), route))
    for network, route in described:
        name = "default" if network.prefixlen == 0 else str(network)
        if route["kind"] == "local":
            out.routes[(number, name)] = BLACKHOLE
        elif route["kind"] in ("eni", "instance"):
            port = by_eni.get(route["target"]) or by_instance.get(route["target"])
            out.routes[(number, name)] = Hop(port.link, port.address) if port else BLACKHOLE
        else:
            out.routes[(number, name)] = BLACKHOLE
            if route["kind"] != "none":
                out.unsupported.append(f"{table['id']}: {destination_text(route)} (kind {route['kind']} is not carried)")
    for address, hop in owners.items():
        best = _best(described, address)
        if best is not None and best["kind"] == "local":
            out.routes[(number, f"{address}/32")] = hop


def destination_text(route: dict[str, Any]) -> str:
    return f"{route['destination']} -> {route.get('target')}"


def _best(described, address: str) -> dict[str, Any] | None:
    ip = ipaddress.ip_address(address)
    matches = [(network.prefixlen, route) for network, route in described if ip in network]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def _table_of_subnet(tables: list[dict[str, Any]]) -> dict[str, str]:
    return {subnet: table["id"] for table in tables for subnet in table["subnets"]}


def batch(have_routes, want_routes, have_rules, want_rules) -> list[str]:
    """The `ip -batch` lines from one state to another. Make before break: routes first, then new rules, then old
    rules and routes go; a replaced route is one atomic kernel operation, so no packet finds a gap."""
    lines = []
    for (table, destination), hop in sorted(want_routes.items()):
        if have_routes.get((table, destination)) != hop:
            kind = "" if hop.link else "blackhole "
            lines.append(f"route replace {kind}{destination} {hop.words()} table {table}".replace("  ", " "))
    for preference, link, table in sorted(want_rules - have_rules):
        lines.append(f"rule add pref {preference} {_from(link)} lookup {table}")
    for preference, link, table in sorted(have_rules - want_rules):
        lines.append(f"rule del pref {preference} {_from(link)} lookup {table}")
    for (table, destination), hop in sorted(have_routes.items()):
        if (table, destination) not in want_routes:
            kind = "" if hop.link else "blackhole "
            lines.append(f"route del {kind}{destination} table {table}")
    return lines


def _from(link: str) -> str:
    return f"iif {link}" if link else "from all"
