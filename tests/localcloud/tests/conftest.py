"""One cloud for the whole test run, in this process: the tests see its insides as well as its API."""

from __future__ import annotations

import io
import json
import time
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from localcloud.cloud import LocalCloud

REGION = "ap-northeast-1"
# A function in Python: reads events, calls `handle(event)`, answers what it returns; an exception is answered as an error.
BOOTSTRAP = """#!{python}
import json, os, sys, time, urllib.request
API = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/"
def post(path, value):
    urllib.request.urlopen(urllib.request.Request(API + path, json.dumps(value).encode(), method="POST")).read()
{code}
while True:
    with urllib.request.urlopen(API + "invocation/next", timeout=None) as answer:
        rid, deadline, event = answer.headers["Lambda-Runtime-Aws-Request-Id"], int(answer.headers["Lambda-Runtime-Deadline-Ms"]), json.load(answer)
    try:
        post("invocation/" + rid + "/response", handle(event))
    except Exception as error:
        post("invocation/" + rid + "/error", {{"errorType": type(error).__name__, "errorMessage": str(error)}})
"""


def bootstrap_zip(code: str) -> bytes:
    import sys

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("bootstrap", BOOTSTRAP.format(python=sys.executable, code=code))
    return out.getvalue()


def raw_zip(script: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("bootstrap", script)
    return out.getvalue()


class Kit:
    def __init__(self, cloud: LocalCloud):
        self.cloud = cloud
        self.endpoint = f"http://localhost:{cloud.port}"
        self.clients: dict[Any, Any] = cloud.__dict__.setdefault("_test_clients", {})

    def client(self, service: str, region: str = REGION, keys: dict[str, Any] | None = None, **config: Any) -> Any:
        config.setdefault("retries", {"max_attempts": 0})
        key = (service, region, keys["AccessKeyId"] + keys["Token"] if keys else "", json.dumps(config, sort_keys=True))
        if key not in self.clients:  # making one takes longer than most calls
            self.clients[key] = self._client(service, region, keys, config)
        return self.clients[key]

    def _client(self, service: str, region: str, keys: dict[str, Any] | None, config: dict[str, Any]) -> Any:
        return boto3.client(service, region_name=region, endpoint_url=self.endpoint, config=Config(**config),
                            aws_access_key_id=keys["AccessKeyId"] if keys else "test", aws_secret_access_key=keys["SecretAccessKey"] if keys else "test",
                            aws_session_token=keys["Token"] if keys else None)  # fmt: skip

    def control(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(f"{self.endpoint}/_localcloud/{path}", json.dumps(body).encode() if body is not None else None, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from None

    def role(self, statements: list[dict[str, Any]], service: str = "lambda.amazonaws.com") -> str:
        iam, name = self.client("iam"), "role-" + uuid.uuid4().hex[:8]
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]}
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements}))
        return arn

    def keys(self, statements: list[dict[str, Any]], session: str = "tester") -> dict[str, Any]:
        return self.cloud.credentials.issue(self.role(statements), session, 3600, {})

    def function(self, code: str, *, statements: list[dict[str, Any]] | None = None, zipped: bytes | None = None, **options: Any) -> str:
        name = "fn-" + uuid.uuid4().hex[:8]
        options.setdefault("Timeout", 5)
        self.client("lambda").create_function(FunctionName=name, Runtime="provided.al2023", Handler="bootstrap", Role=self.role(statements or []),
                                              Code={"ZipFile": zipped or bootstrap_zip(code)}, **options)  # fmt: skip
        return name

    def invoke(self, name: str, event: Any = None, **options: Any) -> dict[str, Any]:
        out = self.client("lambda", read_timeout=60).invoke(FunctionName=name, Payload=json.dumps(event if event is not None else {}), **options)
        out["value"] = json.loads(body) if (body := out["Payload"].read()) else None
        return out

    def runs(self, name: str) -> list[dict[str, Any]]:
        return [r for r in self.cloud.host.after(0) if r["function"] == name]

    def table(self, name: str | None = None) -> str:
        name = name or "t-" + uuid.uuid4().hex[:8]
        self.client("dynamodb").create_table(
            TableName=name, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "cluster", "KeyType": "HASH"}, {"AttributeName": "item", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": "cluster", "AttributeType": "S"}, {"AttributeName": "item", "AttributeType": "S"}])  # fmt: skip
        return name

    def vpc(self, cidr: str = "10.0.0.0/16", zones: str = "ac") -> dict[str, Any]:
        """A VPC with one subnet per zone and one route table for all of them."""
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
        prefix = cidr.rsplit(".", 2)[0]
        subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"{prefix}.{i + 1}.0/24", AvailabilityZone=REGION + z)["Subnet"]["SubnetId"] for i, z in enumerate(zones)]
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        for subnet in subnets:
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        return {"vpc": vpc, "subnets": subnets, "table": table}

    def instance(self, subnet: str, address: str | None = None, **options: Any) -> dict[str, Any]:
        ec2 = self.client("ec2")
        if address:
            options["PrivateIpAddress"] = address
        found = ec2.run_instances(ImageId="ami-12345678", InstanceType="t3.micro", MinCount=1, MaxCount=1, SubnetId=subnet, **options)["Instances"][0]
        self.state(found["InstanceId"], "running")
        return ec2.describe_instances(InstanceIds=[found["InstanceId"]])["Reservations"][0]["Instances"][0]

    def state(self, instance_id: str, wanted: str) -> None:
        ec2 = self.client("ec2")
        until(lambda: ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]["State"]["Name"] == wanted)


def until(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: last value {value!r}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def session_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    cloud = LocalCloud(state_dir=tmp_path_factory.mktemp("lc"), quiet=True)
    yield cloud
    cloud.close()


@pytest.fixture
def kit(session_cloud: LocalCloud) -> Iterator[Kit]:
    """The cloud with default knobs and no faults, before and after each test."""
    defaults = type(session_cloud.knobs.values)().__dict__
    yield Kit(session_cloud)
    session_cloud.faults.remove(None)
    session_cloud.knobs.set(dict(defaults))
