"""What EC2 describes, as plain JSON for the packet plane. Shape: README.md, "Snapshot"."""

from __future__ import annotations

from typing import Any

from moto.ec2.models import ec2_backends

from . import ACCOUNT
from .locks import LOCKS

GONE = ("terminated",)


def snapshot(revision: int) -> dict[str, Any]:
    with LOCKS["ec2"]:
        regions = {}
        for name, backend in list(ec2_backends[ACCOUNT].items()):
            described = region(backend)
            if described["vpcs"] or described["instances"]:
                regions[name] = described
        return {"revision": revision, "regions": regions}


def region(backend: Any) -> dict[str, Any]:
    instances = [instance_entry(i) for r in backend.reservations.values() for i in r.instances]
    used = {i["vpc"] for i in instances}
    vpcs = {v.id: v for v in backend.vpcs.values() if not v.is_default or v.id in used}
    subnets = [s for by_zone in backend.subnets.values() for s in by_zone.values() if s.vpc_id in vpcs]
    return {
        "vpcs": [
            {"id": v.id, "cidr_blocks": [a["cidr_block"] for a in v.get_cidr_block_association_set(ipv6=False)], "tags": tags(backend, v.id)}
            for v in vpcs.values()
        ],
        "subnets": [
            {"id": s.id, "vpc": s.vpc_id, "cidr": s.cidr_block, "az": s.availability_zone, "tags": tags(backend, s.id)} for s in subnets
        ],
        "route_tables": [table_entry(backend, t) for t in backend.route_tables.values() if t.vpc_id in vpcs],
        "network_interfaces": [eni_entry(backend, e) for e in backend.enis.values() if e.subnet.vpc_id in vpcs],
        "instances": instances,
    }  # fmt: skip


def tags(backend: Any, resource_id: str) -> dict[str, str]:
    return dict(backend.tags[resource_id]) if resource_id in backend.tags else {}


def table_entry(backend: Any, table: Any) -> dict[str, Any]:
    return {
        "id": table.id,
        "vpc": table.vpc_id,
        "main": table.main_association_id is not None,
        "subnets": [target for target in table._associations.values() if str(target).startswith("subnet-")],
        "tags": tags(backend, table.id),
        "routes": [route_entry(r) for r in table._routes.values() if r.destination_cidr_block],
    }


def route_entry(route: Any) -> dict[str, Any]:
    kind, target = "none", None
    if route.local:
        kind, target = "local", "local"
    elif route.network_interface_id:
        kind, target = ("eni" if route.interface else "instance"), route.network_interface_id
    elif route.gateway is not None:
        kind, target = "igw", route.gateway.id
    elif route.transit_gateway is not None:
        kind, target = "tgw", route.transit_gateway.id
    elif route.vpc_pcx is not None:
        kind, target = "peering", route.vpc_pcx.id
    elif route.nat_gateway is not None:
        kind, target = "nat", route.nat_gateway.id
    return {"destination": str(route.destination_cidr_block), "kind": kind, "target": target, "instance": route.instance_id, "state": route.state}


def eni_entry(backend: Any, eni: Any) -> dict[str, Any]:
    secondary = [a["PrivateIpAddress"] for a in eni.private_ip_addresses if a.get("PrivateIpAddress") != eni.private_ip_address]
    return {
        "id": eni.id,
        "subnet": eni.subnet.id,
        "vpc": eni.subnet.vpc_id,
        "az": eni.subnet.availability_zone,
        "instance": eni.instance.id if eni.instance else None,
        "device_index": eni.device_index if eni.instance else None,
        "private_ip": eni.private_ip_address,
        "private_ips": [eni.private_ip_address, *secondary],
        "mac": eni.mac_address,
        "source_dest_check": bool(eni.source_dest_check),
        "tags": tags(backend, eni.id),
    }


def launch_time(instance: Any) -> str:
    return instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ")


def instance_entry(instance: Any) -> dict[str, Any]:
    backend = instance.ec2_backend
    own = tags(backend, instance.id)
    live = instance.state not in GONE
    nics = [instance.nics[i] for i in sorted(instance.nics)] if live else []
    profile = instance.iam_instance_profile
    return {
        "id": instance.id,
        "name": own.get("Name"),
        "state": instance.state,
        "vpc": instance.vpc_id,
        "subnet": instance.subnet_id,
        "az": instance.availability_zone,
        "private_ip": nics[0].private_ip_address if nics else None,
        "eni": nics[0].id if nics else None,
        "enis": [n.id for n in nics],
        "source_dest_check": bool(nics[0].source_dest_check) if nics else True,
        "launch_time": launch_time(instance),
        "profile_arn": profile["Arn"] if profile else None,
        "tags": own,
    }


def find_instance(instance_id: str) -> tuple[str, Any] | None:
    """(Region, moto's instance)."""
    for name, backend in list(ec2_backends[ACCOUNT].items()):
        for reservation in list(backend.reservations.values()):
            for instance in reservation.instances:
                if instance.id == instance_id:
                    return name, instance
    return None


def instance_at(address: str) -> tuple[str, Any] | None:
    """The instance, alive, one of whose interfaces has this private address."""
    with LOCKS["ec2"]:
        for name, backend in ec2_backends[ACCOUNT].items():
            for reservation in backend.reservations.values():
                for instance in reservation.instances:
                    if instance.state in ("pending", "running", "stopping", "shutting-down"):
                        for nic in instance.nics.values():
                            if any(a.get("PrivateIpAddress") == address for a in nic.private_ip_addresses):
                                return name, instance
    return None
