"""The router's nft ruleset as text: the source/destination check of each interface, and the cuts. Pure.

The whole table is replaced in one transaction, so a cut of many links begins and ends at one moment for all of them.
Nothing here is stateful: a cut also stops the packets of connections that exist already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable

from .routing import Port

AWS = "aws"  # the AWS API
IMDS = "imds"  # stays reachable in a cut from "*": the hypervisor answers it, not the network
EVERYTHING = "*"


@dataclass(frozen=True)
class Cut:
    """Packets from `source` to `target` are dropped; the other direction is a cut of its own."""

    source: str  # name or id of an instance or host, "aws", "imds" or "*"
    target: str
    tcp_port: int | None = None  # only TCP segments from or to this port

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}" + (f" tcp {self.tcp_port}" if self.tcp_port else "")


def ruleset(ports: Iterable[Port], cuts: Iterable[Cut], services_link: str, api: str, imds: str) -> str:
    ports = list(ports)
    checked = [port for port in ports if port.checked]
    own = [f'"{port.link}" . {address}' for port in checked for address in port.addresses]
    services = _elements([api, imds])
    lines = [
        "table ip plane",
        "delete table ip plane",
        "table ip plane {",
        f"  set own {{ type ifname . ipv4_addr; {_set(own)} }}",
        f"  set checked {{ type ifname; {_set([chr(34) + port.link + chr(34) for port in checked])} }}",
        "  chain check {",
        "    iifname @checked iifname . ip saddr != @own counter drop",
        "    oifname @checked oifname . ip daddr != @own counter drop",
        "  }",
        "  chain cuts {",
    ]
    for cut in cuts:
        lines += [f"    {rule}" for rule in _cut_rules(cut, ports, services_link, api, imds)]
    lines += [
        "  }",
        "  chain forward { type filter hook forward priority 0; policy accept;",
        "    jump check",
        "    jump cuts",
        # Only the two services live behind that link: nothing else is let through to it.
        f'    oifname "{services_link}" ip daddr != {services} drop',
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _cut_rules(cut: Cut, ports: list[Port], services_link: str, api: str, imds: str) -> list[str]:
    source = _match(cut.source, ports, services_link, api, imds, "i", "s")
    target = _match(cut.target, ports, services_link, api, imds, "o", "d")
    if source is None or target is None:
        return []  # powered off: it has no link; the cut is applied when it has one again
    filters = [""]
    if cut.tcp_port:
        filters = [f"tcp dport {cut.tcp_port} ", f"tcp sport {cut.tcp_port} "]
    name = str(cut).replace('"', "")
    return [f'{source}{target}{only}counter drop comment "{name}"' for only in filters]


def _match(name: str, ports: list[Port], services_link: str, api: str, imds: str, way: str, end: str) -> str | None:
    if name == EVERYTHING:
        return f"ip {end}addr != {imds} "
    if name == AWS:
        return f'{way}ifname "{services_link}" ip {end}addr {api} '
    if name == IMDS:
        return f'{way}ifname "{services_link}" ip {end}addr {imds} '
    for port in ports:
        if name in (port.name, port.instance):
            return f'{way}ifname "{port.link}" '
    return None


def _elements(items: list[str]) -> str:
    return "{ " + ", ".join(items) + " }"


def _set(items: list[str]) -> str:
    return f"elements = {_elements(items)};" if items else ""
