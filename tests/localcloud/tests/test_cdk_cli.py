"""The ordinary CDK CLI against a cloud of its own: what succeeds, and that a failure is never a tick.

The assemblies are written by hand, so that nothing but the CLI is needed. The product's app is deployed by the end-to-end tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from .conftest import REGION, bootstrap_zip
from .test_cloudformation import CUSTOM

TESTS = Path(__file__).parents[2]
CLI = TESTS.parent / "cdk" / "node_modules" / ".bin" / "cdk"
pytestmark = pytest.mark.skipif(not CLI.exists(), reason="needs `npm ci` in cdk/")


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", "localcloud", "--quiet"], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    yield f"http://localhost:{json.loads(process.stdout.readline())['port']}"  # type: ignore[union-attr]
    process.terminate()
    process.wait()


def client(cloud: str, service: str) -> Any:
    return boto3.client(service, region_name=REGION, endpoint_url=cloud, aws_access_key_id="t", aws_secret_access_key="t")


def cdk(cloud: str, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "AWS_ENDPOINT_URL": cloud, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION,
           "CDK_DISABLE_CLI_TELEMETRY": "true", "CI": "1"}  # fmt: skip
    return subprocess.run([str(CLI), *arguments], cwd=where, env=env, capture_output=True, text=True, timeout=60)


def assembly(where: Path, resources: dict[str, Any]) -> Path:
    where.mkdir(exist_ok=True)
    (where / "S.template.json").write_text(json.dumps({"Resources": resources}))
    artifact = {"type": "aws:cloudformation:stack", "environment": f"aws://123456789012/{REGION}", "properties": {"templateFile": "S.template.json"}}
    (where / "manifest.json").write_text(json.dumps({"version": "36.0.0", "artifacts": {"S": artifact}}))
    return where


QUEUE = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "by-cdk"}}


def status(cloud: str) -> str | None:
    try:
        return client(cloud, "cloudformation").describe_stacks(StackName="S")["Stacks"][0]["StackStatus"]
    except Exception:
        return None


def test_bootstrap(cloud: str, tmp_path: Path) -> None:
    out = cdk(cloud, tmp_path, "bootstrap", f"aws://123456789012/{REGION}")
    assert out.returncode == 0, out.stdout + out.stderr
    assert client(cloud, "ssm").get_parameter(Name="/cdk-bootstrap/hnb659fds/version")["Parameter"]["Value"].isdigit()


def test_deploy_refuse_fail_and_destroy(cloud: str, tmp_path: Path) -> None:
    def deploy(resources: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return cdk(cloud, tmp_path, "deploy", "--app", str(assembly(tmp_path / "out", resources)), "--require-approval", "never", "S")

    unknown = deploy({"Q": QUEUE, "X": {"Type": "AWS::Quantum::Computer"}})
    assert unknown.returncode == 1 and "Unrecognized resource types" in unknown.stdout + unknown.stderr
    assert client(cloud, "sqs").list_queues().get("QueueUrls", []) == []

    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    role = client(cloud, "iam").create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    function = client(cloud, "lambda").create_function(FunctionName="configure", Runtime="provided.al2023", Handler="bootstrap", Role=role,
                                                       Code={"ZipFile": bootstrap_zip(CUSTOM)})["FunctionArn"]  # fmt: skip

    def cluster(config: str) -> dict[str, Any]:
        return {"Q": QUEUE, "C": {"Type": "Custom::LeaseholdCluster", "Properties": {"ServiceToken": function, "Config": config}}}

    good = deploy(cluster("good"))
    assert good.returncode == 0 and status(cloud) == "CREATE_COMPLETE", good.stdout + good.stderr
    bad = deploy(cluster("bad"))
    assert bad.returncode == 1 and "vip inside the VPC" in bad.stdout + bad.stderr
    assert status(cloud) == "UPDATE_ROLLBACK_COMPLETE"
    again = deploy(cluster("better"))
    assert again.returncode == 0 and status(cloud) == "UPDATE_COMPLETE"
    nothing = deploy(cluster("better"))
    assert nothing.returncode == 0 and "no changes" in nothing.stdout + nothing.stderr
    gone = cdk(cloud, tmp_path, "destroy", "--app", str(tmp_path / "out"), "--force", "S")
    assert gone.returncode == 0 and status(cloud) is None
