"""Bad input: an unknown cluster or action, a malformed request or event, a configuration that cannot work. One clear error,
and nothing is changed: not the row, not a route, not the configuration."""

import dataclasses
import json

import pytest

from harness.deployment import ClusterSpec, Deployment, DeploymentError


def _changes(scene):
    """What the functions wrote since the story began, the row's renewals by the nodes apart."""
    return [one for one in scene.cloud.audit(scene.audit_mark) if one["applied"] and "function" in one["caller"] and one["action"] != "CreateLogStream"
            and one["service"] in ("ec2", "dynamodb")]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({"action": "status", "cluster": "nowhere"}, "nowhere"),
        ({"action": "dance", "cluster": "web"}, "dance"),
        ({"action": "switchover", "cluster": "web", "too": "b"}, "too"),
        ({"action": "status"}, "cluster"),
        ({"source": "leasehold", "detail-type": "Holder Suspected", "detail": {"v": 1, "cluster": "web"}}, "node"),
        ({"source": "leasehold", "detail-type": "Holder Suspected", "detail": {"v": 99, "cluster": "web"}}, "99"),
        ({"source": "leasehold", "detail-type": "Full Moon", "detail": {"v": 1}}, "Full Moon"),
        ({}, "action"),
    ],
    ids=["unknown cluster", "unknown action", "unknown field", "no cluster", "malformed event", "newer event", "unknown event", "empty"],
)
def test_a_request_that_cannot_be_understood(scene, payload, named):
    answer = scene.cloud.client("lambda").invoke(FunctionName=f"{scene.cluster.deployment}-failover", Payload=json.dumps(payload).encode())
    content = json.loads(answer["Payload"].read())
    error = content.get("error") or content.get("errorMessage") or content
    assert named in json.dumps(error), content
    assert "error" in json.dumps(content).lower(), content
    assert _changes(scene) == []


@pytest.mark.parametrize(
    ("name", "virtual_ip", "reason"),
    [("inside", "10.0.1.77", "10.0.0.0/16"), ("routeless", "10.98.0.10", "route")],
    ids=["a virtual IP inside the VPC's range", "no route and none to be made"],
)
def test_a_configuration_that_cannot_work_fails_the_deployment(scene, name, virtual_ip, reason):
    network = dataclasses.replace(scene.network, virtual_ip=virtual_ip)
    deployment = Deployment(scene.cloud, f"leasehold-{name}", [ClusterSpec(name, network)])
    with pytest.raises(DeploymentError) as refused:
        deployment.deploy()
    assert virtual_ip in str(refused.value) and reason in str(refused.value), str(refused.value)
    tables = scene.cloud.client("dynamodb").list_tables()["TableNames"]
    if deployment.name in tables:
        assert scene.cloud.client("dynamodb").scan(TableName=deployment.name)["Items"] == []
