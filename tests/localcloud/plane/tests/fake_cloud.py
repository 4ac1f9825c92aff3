"""A stand-in for the AWS side: holds a snapshot that tests change, and hands it to the plane as the real one would."""

from __future__ import annotations

import copy
import secrets
from pathlib import Path
from typing import Any

REGION = "ap-northeast-1"
VIP = "10.99.0.10"


def snapshot() -> dict[str, Any]:
    """One VPC, nodes a and b in two AZs, a client subnet with a table of its own; the VIP at a."""
    def table(name, subnets, target="eni-a", main=False):
        return {"id": name, "vpc": "vpc-1", "main": main, "subnets": subnets, "tags": {}, "routes": [
            {"destination": "10.0.0.0/16", "kind": "local", "target": "local", "instance": None, "state": "active"},
            {"destination": f"{VIP}/32", "kind": "eni", "target": target, "instance": None, "state": "active"}]}

    def eni(tag, subnet, address, check):
        return {"id": f"eni-{tag}", "subnet": subnet, "vpc": "vpc-1", "az": REGION + "a", "instance": f"i-{tag}", "device_index": 0, "private_ip": address,
                "private_ips": [address], "mac": f"02:00:00:00:00:0{1 if tag == 'a' else 2}", "source_dest_check": check, "tags": {}}

    def instance(tag, subnet, address):
        return {"id": f"i-{tag}", "name": tag, "state": "running", "vpc": "vpc-1", "subnet": subnet, "az": REGION + "a", "private_ip": address,
                "eni": f"eni-{tag}", "enis": [f"eni-{tag}"], "source_dest_check": False, "launch_time": "", "profile_arn": None, "tags": {"Name": tag}}

    return {"revision": 1, "regions": {REGION: {
        "vpcs": [{"id": "vpc-1", "cidr_blocks": ["10.0.0.0/16"], "tags": {}}],
        "subnets": [{"id": f"subnet-{n}", "vpc": "vpc-1", "cidr": f"10.0.{n}.0/24", "az": REGION + "a", "tags": {}} for n in (1, 2, 3)],
        "route_tables": [table("rtb-main", [], main=True), table("rtb-client", ["subnet-3"])],
        "network_interfaces": [eni("a", "subnet-1", "10.0.1.10", False), eni("b", "subnet-2", "10.0.2.10", False)],
        "instances": [instance("a", "subnet-1", "10.0.1.10"), instance("b", "subnet-2", "10.0.2.10")]}}}


class FakeCloud:
    def __init__(self, state_dir: Path):
        self.run = "t" + secrets.token_hex(2)
        self.port = 5555
        self.state_dir = state_dir
        self.now = snapshot()
        self.logged: list[tuple[str, dict]] = []
        self.off: list[str] = []

    def describe(self) -> dict[str, Any]:
        return copy.deepcopy(self.now)

    def instance(self, instance_id: str) -> dict[str, Any] | None:
        for region, content in self.now["regions"].items():
            for one in content["instances"]:
                if one["id"] == instance_id:
                    return one | {"region": region}
        return None

    def powered_off(self, instance_id: str, reason: str) -> None:
        self.off.append(instance_id)

    def log(self, text: str, **fields: Any) -> None:
        self.logged.append((text, fields))

    # what a test does to EC2

    def replace_route(self, plane: Any, eni: str, tables: tuple[str, ...] = ("rtb-main", "rtb-client"), destination: str = f"{VIP}/32") -> None:
        for table in self.now["regions"][REGION]["route_tables"]:
            if table["id"] in tables:
                for route in table["routes"]:
                    if route["destination"] == destination:
                        route["target"] = eni
        self.changed(plane)

    def set_source_dest_check(self, plane: Any, eni_id: str, check: bool) -> None:
        for eni in self.now["regions"][REGION]["network_interfaces"]:
            if eni["id"] == eni_id:
                eni["source_dest_check"] = check
        self.changed(plane)

    def changed(self, plane: Any) -> None:
        self.now["revision"] += 1
        plane.on_change(self.describe())
