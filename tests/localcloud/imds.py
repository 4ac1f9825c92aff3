"""The instance metadata service, version 2 only: who asks is told by the source address.

Credentials are the instance profile's role with the instance id as session name, so the audit log says which node acted.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from . import ACCOUNT
from .credentials import Credentials
from .http_server import Request, Response
from .iam import trust_allows
from .knobs import KnobBoard
from .principals import profile_role
from .snapshot import instance_at, launch_time

MAX_TTL_S = 21600
REFRESH_FRACTION = 0.2  # new keys appear when less than this part of the old ones' life is left, well before they expire


def text(status: int, body: str, content_type: str = "text/plain", **headers: str) -> Response:
    return Response(status, body.encode(), [("content-type", content_type), ("server", "EC2ws"), *((k.replace("_", "-"), v) for k, v in headers.items())])


class Imds:
    def __init__(self, *, credentials: Credentials, knobs: KnobBoard, log: Callable[..., None]):
        self.credentials, self.knobs, self.log = credentials, knobs, log
        self.tokens: dict[str, tuple[str, float]] = {}  # token -> (instance, monotonic end)
        self.keys: dict[tuple[str, str], dict[str, Any]] = {}
        self.lock = threading.Lock()

    def answer(self, request: Request) -> Response:
        found = instance_at(request.peer)
        if found is None:
            self.log("IMDS asked from an address of no running instance", source=request.peer, path=request.raw_path)
            return text(404, "no running instance has this source address")
        region, instance = found
        if "x-forwarded-for" in request.headers:
            return text(403, "Forbidden")  # IMDSv2 refuses proxies
        path = request.path.rstrip("/") if request.path != "/" else request.path
        if path == "/latest/api/token":
            return self._token(request, instance.id)
        token = request.headers.get("x-aws-ec2-metadata-token", "")
        owner, end = self.tokens.get(token, ("", 0.0))
        if owner != instance.id or time.monotonic() > end:
            return text(401, "Unauthorized")
        if request.method not in ("GET", "HEAD"):
            return text(405, "Method Not Allowed")
        try:
            value = self._lookup(path.removeprefix("/latest").strip("/").split("/"), region, instance, request.path.endswith("/"))
        except KeyError:
            return text(404, "Not Found")
        return text(200, value, "application/json" if value.startswith("{") else "text/plain")

    def _token(self, request: Request, instance_id: str) -> Response:
        if request.method != "PUT":
            return text(405, "Method Not Allowed")
        try:
            ttl = int(request.headers["x-aws-ec2-metadata-token-ttl-seconds"])
        except (KeyError, ValueError):
            return text(400, "Bad Request")
        if not 1 <= ttl <= MAX_TTL_S:
            return text(400, "Bad Request")
        token = secrets.token_urlsafe(40)
        with self.lock:
            now = time.monotonic()
            self.tokens = {t: v for t, v in self.tokens.items() if v[1] > now}
            self.tokens[token] = (instance_id, now + ttl)
        return text(200, token, x_aws_ec2_metadata_token_ttl_seconds=str(ttl))

    def _lookup(self, path: list[str], region: str, instance: Any, directory: bool) -> str:
        if path[:2] == ["dynamic", "instance-identity"]:
            if path[2:] == ["document"]:
                return json.dumps(identity_document(region, instance), indent=2)
            raise KeyError
        if path[:1] != ["meta-data"]:
            raise KeyError
        if path[1:3] == ["iam", "security-credentials"]:
            return self._security_credentials(path[3:], instance)
        node: Any = meta_data(region, instance)
        for part in path[1:]:
            node = node[part] if isinstance(node, dict) else {}[part]
        if isinstance(node, dict):
            return "\n".join(k + ("/" if isinstance(v, dict) else "") for k, v in node.items())
        return node

    def _security_credentials(self, rest: list[str], instance: Any) -> str:
        profile = instance.iam_instance_profile
        role = profile_role(profile["Arn"]) if profile else None
        if role is None:
            raise KeyError  # AWS answers 404 while no profile is attached
        if not rest:
            return role.name
        if rest != [role.name]:
            raise KeyError
        if not trust_allows(role.assume_role_policy_document, "ec2.amazonaws.com"):
            return json.dumps({"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role " + role.name})
        life = float(self.knobs.session_s)
        with self.lock:
            keys = self.keys.get((instance.id, role.arn))
            if keys is None or keys["Expiration"] - time.time() < keys["life"] * REFRESH_FRACTION:
                keys = self.credentials.issue(role.arn, instance.id, life, {"instance": instance.id})
                keys["life"], keys["issued"] = life, time.time()
                self.keys[(instance.id, role.arn)] = keys
        stamp = lambda at: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))  # noqa: E731
        return json.dumps({"Code": "Success", "LastUpdated": stamp(keys["issued"]), "Type": "AWS-HMAC", "AccessKeyId": keys["AccessKeyId"],
                           "SecretAccessKey": keys["SecretAccessKey"], "Token": keys["Token"], "Expiration": stamp(keys["Expiration"])})  # fmt: skip


def identity_document(region: str, instance: Any) -> dict[str, Any]:
    return {
        "accountId": ACCOUNT,
        "architecture": instance.architecture,
        "availabilityZone": instance.availability_zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "marketplaceProductCodes": None,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "kernelId": None,
        "pendingTime": launch_time(instance),  # equal to LaunchTime: it names this start of the instance
        "privateIp": instance.nics[0].private_ip_address,
        "ramdiskId": None,
        "region": region,
        "version": "2017-09-30",
    }


def meta_data(region: str, instance: Any) -> dict[str, Any]:
    backend = instance.ec2_backend
    primary = instance.nics[0]
    macs = {}
    for index in sorted(instance.nics):
        nic = instance.nics[index]
        vpc = backend.vpcs[nic.subnet.vpc_id]
        secondary = [a["PrivateIpAddress"] for a in nic.private_ip_addresses if a.get("PrivateIpAddress") != nic.private_ip_address]
        cidrs = [a["cidr_block"] for a in vpc.get_cidr_block_association_set(ipv6=False)]
        macs[nic.mac_address] = {
            "device-number": str(index),
            "interface-id": nic.id,
            "local-hostname": instance.private_dns_name,
            "local-ipv4s": "\n".join([nic.private_ip_address, *secondary]),
            "mac": nic.mac_address,
            "owner-id": ACCOUNT,
            "security-groups": "\n".join(g.name for g in nic._group_set),
            "security-group-ids": "\n".join(g.id for g in nic._group_set),
            "subnet-id": nic.subnet.id,
            "subnet-ipv4-cidr-block": nic.subnet.cidr_block,
            "vpc-id": vpc.id,
            "vpc-ipv4-cidr-block": vpc.cidr_block,
            "vpc-ipv4-cidr-blocks": "\n".join(cidrs),
        }
    profile = instance.iam_instance_profile
    data: dict[str, Any] = {
        "ami-id": instance.image_id or "",
        "hostname": instance.private_dns_name,
        "instance-id": instance.id,
        "instance-type": instance.instance_type,
        "instance-life-cycle": "spot" if instance.lifecycle == "spot" else "on-demand",
        "local-hostname": instance.private_dns_name,
        "local-ipv4": primary.private_ip_address,
        "mac": primary.mac_address,
        "network": {"interfaces": {"macs": macs}},
        "placement": {
            "availability-zone": instance.availability_zone,
            "availability-zone-id": zone_id(region, instance.availability_zone),
            "region": region,
        },
        "reservation-id": "",
        "services": {"domain": "amazonaws.com", "partition": "aws"},
    }
    if profile:
        stamp = launch_time(instance)
        data["iam"] = {"info": json.dumps({"Code": "Success", "LastUpdated": stamp, "InstanceProfileArn": profile["Arn"], "InstanceProfileId": profile["Id"]}),
                       "security-credentials": {}}  # fmt: skip
    return data


def zone_id(region: str, zone: str) -> str:
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend

    for candidate in RegionsAndZonesBackend.zones.get(region, []):
        if candidate.name == zone:
            return candidate.zone_id
    return ""
