"""One VPC's router: a namespace with one link per instance and host, and one to the namespace of the AWS API.

          lc<run>-aws  10.254.0.2 (API)  169.254.169.254 (IMDS)
               |  aws0
          lc<run>-router ----- v1 --- eth0  lc<run>-a        10.0.1.10/32 and, while active, the VIP on lo
               |  `----------- v2 --- eth0  lc<run>-b
               `-------------- v3 --- eth0  lc<run>-client

All neighbour entries are fixed: no ARP, so no packet waits for a resolution and no stale entry outlives an instance.
Callers hold the plane's lock.
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

from . import firewall, netns, routing
from .routing import Hop, Port

SERVICES_LINK = "aws0"
ROUTER_SIDE = "10.254.1.1"  # both only on the veth pair between router and lc<run>-aws
SERVICES_SIDE = "10.254.1.2"
GUEST_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.disable_ipv6": "1",
}


class Router:
    def __init__(self, prefix: str, api: str, imds: str):
        self.name = f"{prefix}-router"
        self.aws = f"{prefix}-aws"
        self.api = api
        self.imds = imds
        self.ports: dict[str, Port] = {}  # by link
        self._link_numbers = itertools.count(1)
        self._table_numbers: dict[str, int] = {}
        self._routes: dict[tuple[int, str], Hop] = {}
        self._rules: set[tuple[int, str, int]] = set()
        self._ruleset = ""

    def create(self) -> None:
        for name in (self.aws, self.name):
            netns.create(name)
        netns.set_sysctls(self.name, GUEST_SYSCTLS | {"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.send_redirects": "0",
                                                      "net.ipv4.conf.default.send_redirects": "0"})
        netns.set_sysctls(self.aws, GUEST_SYSCTLS)
        netns.ip_batch(self.name, [f"link add {SERVICES_LINK} type veth peer name eth0 netns {self.aws}"])
        services_mac, router_mac = _mac(self.name, SERVICES_LINK), _mac(self.aws, "eth0")
        netns.ip_batch(self.name, [
            f"addr add {ROUTER_SIDE}/32 dev {SERVICES_LINK}",
            f"link set {SERVICES_LINK} up",
            f"neigh replace {SERVICES_SIDE} lladdr {router_mac} dev {SERVICES_LINK} nud permanent",
        ])
        netns.ip_batch(self.aws, [
            f"addr add {self.api}/32 dev lo",
            f"addr add {self.imds}/32 dev lo",
            f"addr add {SERVICES_SIDE}/32 dev eth0",
            "link set eth0 up",
            f"neigh replace {ROUTER_SIDE} lladdr {services_mac} dev eth0 nud permanent",
            f"route add default via {ROUTER_SIDE} dev eth0 onlink src {self.api}",
        ])

    def new_link(self) -> str:
        return f"v{next(self._link_numbers)}"

    def plug(self, port: Port, namespace: str, subnet_cidr: str, mac: str | None) -> None:
        """Make the link of a port whose namespace exists. Nothing flows before the next `apply`."""
        gateway = str(ipaddress.ip_network(subnet_cidr).network_address + 1)
        address = f" address {mac}" if mac else ""
        netns.ip_batch(self.name, [f"link add {port.link} type veth peer name eth0{address} netns {namespace}"])
        router_mac, guest_mac = _mac(self.name, port.link), _mac(namespace, "eth0")
        netns.set_sysctls(namespace, GUEST_SYSCTLS)
        netns.ip_batch(self.name, [
            f"addr add {gateway}/32 dev {port.link}",
            f"link set {port.link} up",
            f"neigh replace {port.address} lladdr {guest_mac} dev {port.link} nud permanent",
        ])
        netns.ip_batch(namespace, [
            *[f"addr add {one}/32 dev eth0" for one in port.addresses],
            "link set eth0 up",
            f"neigh replace {gateway} lladdr {router_mac} dev eth0 nud permanent",
            f"route add default via {gateway} dev eth0 onlink src {port.address}",
        ])
        self.ports[port.link] = port

    def unplug(self, link: str) -> None:
        """The link is gone at once, with the packets on it; routes that used it must have moved before."""
        self.ports.pop(link, None)
        netns.run(["ip", "-n", self.name, "link", "del", link])

    def update(self, port: Port) -> None:
        """The same link with other properties (source/destination check, subnet, addresses)."""
        self.ports[port.link] = port

    def apply(self, region: dict[str, Any], vpc: str | None, without: frozenset[str] = frozenset(),
              cuts: tuple[firewall.Cut, ...] = ()) -> list[str]:
        """Make the kernel match what is described; returns what nothing here can carry. `without`: links about to go."""
        ports = [port for link, port in self.ports.items() if link not in without]
        services = {self.api: Hop(SERVICES_LINK, SERVICES_SIDE), self.imds: Hop(SERVICES_LINK, SERVICES_SIDE)}
        want = routing.desired(region, vpc or "", ports, self._table_number, services, SERVICES_LINK)
        ruleset = firewall.ruleset(ports, cuts, SERVICES_LINK, self.api, self.imds)
        # Filters first: a new link must not carry a packet unchecked, and a cut must not come late.
        if ruleset != self._ruleset:
            netns.nft(self.name, ruleset)
            self._ruleset = ruleset
        lines = routing.batch(self._routes, want.routes, self._rules, want.rules)
        try:
            netns.ip_batch(self.name, lines)
        except netns.PlaneError:
            # Half a batch may be in the kernel. Forget what was applied and start from nothing, once.
            self._reset()
            netns.ip_batch(self.name, routing.batch({}, want.routes, set(), want.rules))
        self._routes, self._rules = want.routes, want.rules
        return want.unsupported

    def kernel_tables(self) -> dict[str, int]:
        return dict(self._table_numbers)

    def delete(self) -> None:
        for name in (self.name, self.aws):
            netns.delete(name)

    def _reset(self) -> None:
        for table in {table for table, _ in self._routes}:
            try:
                netns.run(["ip", "-n", self.name, "route", "flush", "table", str(table)])
            except netns.PlaneError:
                pass  # the batch ended before its first route
        for preference in {preference for preference, _, _ in self._rules}:
            while True:
                try:
                    netns.run(["ip", "-n", self.name, "rule", "del", "pref", str(preference)])
                except netns.PlaneError:
                    break  # none of this preference is left

    def _table_number(self, name: str) -> int:
        return self._table_numbers.setdefault(name, routing.FIRST_ROUTE_TABLE + len(self._table_numbers))


def _mac(namespace: str, link: str) -> str:
    fields = netns.run(["ip", "-n", namespace, "-o", "link", "show", "dev", link]).split()
    return fields[fields.index("link/ether") + 1]
