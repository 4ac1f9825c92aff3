"""IMDSv2 as documented, by the source address of the request."""

from __future__ import annotations

import itertools
import json
import time
import uuid

import pytest

from localcloud.http_server import Request, Response

from .conftest import Kit


class Node:
    """An instance with a profile, and requests that come from its address."""

    def __init__(self, kit: Kit, address: str, *, profile: bool = True, trust: str = "ec2.amazonaws.com"):
        self.kit = kit
        iam, self.name = kit.client("iam"), "node-" + uuid.uuid4().hex[:8]
        self.role = kit.role([{"Effect": "Allow", "Action": "dynamodb:ListTables", "Resource": "*"}], service=trust).rsplit("/", 1)[-1]
        iam.create_instance_profile(InstanceProfileName=self.name)
        iam.add_role_to_instance_profile(InstanceProfileName=self.name, RoleName=self.role)
        self.net = kit.vpc(cidr=address.rsplit(".", 2)[0] + ".0.0/16")
        options = {"IamInstanceProfile": {"Name": self.name}} if profile else {}
        self.machine = kit.instance(self.net["subnets"][0], address, **options)
        self.address = address

    def ask(self, method: str, path: str, **headers: str) -> Response:
        return self.kit.cloud.imds.answer(Request(method, path, {k.replace("_", "-"): v for k, v in headers.items()}, b"", self.address))

    def token(self) -> str:
        return self.ask("PUT", "/latest/api/token", x_aws_ec2_metadata_token_ttl_seconds="300").body.decode()

    def get(self, path: str) -> str:
        answer = self.ask("GET", path, x_aws_ec2_metadata_token=self.token())
        assert answer.status == 200, (path, answer.status)
        return answer.body.decode()


NETWORKS = itertools.count(20, 2)  # a network of its own for each test: the cloud is the session's, and addresses tell who asks


@pytest.fixture
def node(kit: Kit) -> Node:
    return Node(kit, f"10.{next(NETWORKS)}.1.10")


def test_without_a_token_it_is_401(node: Node) -> None:
    assert node.ask("GET", "/latest/meta-data/instance-id").status == 401
    assert node.ask("GET", "/latest/meta-data/instance-id", x_aws_ec2_metadata_token="wrong").status == 401


def test_a_token_needs_put_a_ttl_and_no_proxy(node: Node) -> None:
    assert node.ask("GET", "/latest/api/token", x_aws_ec2_metadata_token_ttl_seconds="60").status == 405
    assert node.ask("PUT", "/latest/api/token").status == 400
    assert node.ask("PUT", "/latest/api/token", x_aws_ec2_metadata_token_ttl_seconds="21601").status == 400
    assert node.ask("PUT", "/latest/api/token", x_aws_ec2_metadata_token_ttl_seconds="60", x_forwarded_for="1.2.3.4").status == 403
    answer = node.ask("PUT", "/latest/api/token", x_aws_ec2_metadata_token_ttl_seconds="60")
    assert answer.status == 200 and ("x-aws-ec2-metadata-token-ttl-seconds", "60") in answer.headers


def test_a_token_of_another_instance_is_no_token(kit: Kit, node: Node) -> None:
    number = int(node.address.split(".")[1])
    other = Node(kit, f"10.{number + 1}.1.10")
    assert other.ask("GET", "/latest/meta-data/instance-id", x_aws_ec2_metadata_token=node.token()).status == 401


def test_identity(node: Node) -> None:
    machine = node.machine
    assert node.get("/latest/meta-data/instance-id") == machine["InstanceId"]
    assert node.get("/latest/meta-data/local-ipv4") == node.address
    assert node.get("/latest/meta-data/placement/region") == "ap-northeast-1"
    assert node.get("/latest/meta-data/placement/availability-zone") == "ap-northeast-1a"
    mac = node.get("/latest/meta-data/mac")
    nic = machine["NetworkInterfaces"][0]
    assert mac == nic["MacAddress"]
    assert node.get("/latest/meta-data/network/interfaces/macs/") == mac + "/"
    base = f"/latest/meta-data/network/interfaces/macs/{mac}/"
    assert node.get(base + "interface-id") == nic["NetworkInterfaceId"]
    assert node.get(base + "local-ipv4s") == node.address
    assert node.get(base + "vpc-id") == node.net["vpc"]
    assert node.get(base + "subnet-id") == node.net["subnets"][0]
    assert node.ask("GET", "/latest/meta-data/nothing", x_aws_ec2_metadata_token=node.token()).status == 404


def test_pending_time_is_launch_time_and_changes_with_a_start(kit: Kit, node: Node) -> None:
    document = json.loads(node.get("/latest/dynamic/instance-identity/document"))
    assert (document["instanceId"], document["region"], document["privateIp"]) == (node.machine["InstanceId"], "ap-northeast-1", node.address)
    assert document["pendingTime"] == node.machine["LaunchTime"].strftime("%Y-%m-%dT%H:%M:%SZ")
    ec2, instance = kit.client("ec2"), node.machine["InstanceId"]
    time.sleep(1.1)
    ec2.stop_instances(InstanceIds=[instance])
    kit.state(instance, "stopped")
    ec2.start_instances(InstanceIds=[instance])
    kit.state(instance, "running")
    again = json.loads(node.get("/latest/dynamic/instance-identity/document"))["pendingTime"]
    launched = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["LaunchTime"]
    assert again == launched.strftime("%Y-%m-%dT%H:%M:%SZ") != document["pendingTime"]


def test_credentials_are_the_profiles_role_with_the_instance_as_session(kit: Kit, node: Node) -> None:
    base = "/latest/meta-data/iam/security-credentials/"
    assert node.get(base) == node.role
    keys = json.loads(node.get(base + node.role))
    assert keys["Code"] == "Success" and keys["Type"] == "AWS-HMAC"
    assert keys == json.loads(node.get(base + node.role)), "the same keys until they get old"
    identity = kit.client("sts", keys=keys).get_caller_identity()
    assert identity["Arn"].endswith(f"assumed-role/{node.role}/{node.machine['InstanceId']}")
    kit.client("dynamodb", keys=keys).list_tables()
    principal = kit.cloud.credentials.principal(keys["AccessKeyId"])
    assert principal.describe() == {"kind": "role", "role": node.role, "session": node.machine["InstanceId"], "instance": node.machine["InstanceId"]}


def test_keys_are_renewed_before_they_expire_and_expired_ones_are_refused(kit: Kit, node: Node) -> None:
    from botocore.exceptions import ClientError

    kit.cloud.knobs.set({"session_s": 1.0})
    base = "/latest/meta-data/iam/security-credentials/" + node.role
    first = json.loads(node.get(base))
    time.sleep(1.1)
    assert json.loads(node.get(base))["AccessKeyId"] != first["AccessKeyId"]
    with pytest.raises(ClientError) as expired:
        kit.client("dynamodb", keys=first).list_tables()
    assert expired.value.response["Error"]["Code"] == "ExpiredTokenException"


def test_no_profile_no_credentials(kit: Kit) -> None:
    number = int(uuid.uuid4().hex[:4], 16) % 20 + 225
    bare = Node(kit, f"10.{number}.1.10", profile=False)
    assert bare.ask("GET", "/latest/meta-data/iam/security-credentials/", x_aws_ec2_metadata_token=bare.token()).status == 404


def test_an_address_of_no_instance_gets_nothing(kit: Kit) -> None:
    assert kit.cloud.imds.answer(Request("PUT", "/latest/api/token", {"x-aws-ec2-metadata-token-ttl-seconds": "60"}, b"", "192.0.2.1")).status == 404


def test_a_stopped_instance_gets_nothing(kit: Kit, node: Node) -> None:
    kit.client("ec2").stop_instances(InstanceIds=[node.machine["InstanceId"]])
    kit.state(node.machine["InstanceId"], "stopped")
    assert node.ask("PUT", "/latest/api/token", x_aws_ec2_metadata_token_ttl_seconds="60").status == 404
