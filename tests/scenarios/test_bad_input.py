"""Bad input: an unknown cluster or action, a malformed request or event, a configuration that cannot work, a lease row that
this program cannot read. One clear error, and nothing is changed: not the row, not a route, not the configuration."""

import dataclasses
import json
import time

import pytest

from harness.deployment import ClusterSpec, Deployment, DeploymentError
from harness.paths import BINARY

from .conftest import TTL_S

MOVING = ("rev", "beat", "nonce")  # what each renewal changes


def _item(scene, name):
    return scene.cloud.client("dynamodb").get_item(
        TableName=scene.cluster.deployment, Key={"cluster": {"S": scene.cluster.name}, "item": {"S": name}}, ConsistentRead=True)["Item"]  # fmt: skip


def _as_it_stands(scene):
    """The cluster's configuration, its row but for what renewals change, and all route tables."""
    row = {name: value for name, value in _item(scene, "lease").items() if name not in MOVING}
    tables = scene.cloud.client("ec2").describe_route_tables()["RouteTables"]
    assert tables and row and _item(scene, "config")["config"]["S"]
    return {"config": _item(scene, "config"), "row": row, "tables": sorted(tables, key=lambda one: one["RouteTableId"])}


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
    before = _as_it_stands(scene)
    network = dataclasses.replace(scene.network, virtual_ip=virtual_ip)
    deployment = Deployment(scene.cloud, f"leasehold-{name}", [ClusterSpec(name, network)])
    with pytest.raises(DeploymentError) as refused:
        deployment.deploy()
    assert virtual_ip in str(refused.value) and reason in str(refused.value), str(refused.value)
    assert _as_it_stands(scene) == before, "the cluster that was there was touched"
    assert _changes(scene) == []
    tables = scene.cloud.client("dynamodb").list_tables()["TableNames"]
    if deployment.name in tables:
        assert scene.cloud.client("dynamodb").scan(TableName=deployment.name)["Items"] == []


def test_a_deployment_whose_route_tables_do_not_fit_the_network_fails(scene):
    """The virtual IP is routed in a table that cluster.toml does not list, and one that it lists has no route for it and is
    not to be given one. Both would show only at a failover: the functions have no right to move the one, nobody is led by
    the other."""
    address = "10.97.0.10"
    listed, stranger, routeless = scene.network.route_tables[:3]
    ec2 = scene.cloud.client("ec2")
    route = {"DestinationCidrBlock": f"{address}/32"}
    for table in (listed, stranger):
        ec2.create_route(RouteTableId=table, NetworkInterfaceId=scene.network.nodes[scene.active].eni, **route)
    scene.audit_mark = scene.cloud.audit_mark()  # what this test did by hand is not the product's doing
    before = _as_it_stands(scene)
    network = dataclasses.replace(scene.network, virtual_ip=address, route_tables=[listed, routeless])
    with pytest.raises(DeploymentError) as refused:
        Deployment(scene.cloud, "leasehold-misfit", [ClusterSpec("misfit", network)]).deploy()
    told = " ".join(str(refused.value).split())  # the CLI folds lines
    assert f"missing route: {routeless}" in told and "create_in" in told, told
    assert f"route not listed: {stranger}" in told and "route_tables" in told, told
    assert _as_it_stands(scene) == before, "the cluster that was there was touched"
    assert _changes(scene) == []
    for table in (listed, stranger):
        ec2.delete_route(RouteTableId=table, **route)
    scene.audit_mark = scene.cloud.audit_mark()


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [("v", {"N": "99"}, "has layout version 99, this program knows 1 at most"), ("ttl_ms", {"S": "soon"}, 'attribute ttl_ms: expected a whole number, 0 or more, found "soon"')],
    ids=["written by a newer program", "malformed"],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_left_alone(scene, attribute, value, told):
    """Nobody takes over, nobody rewrites it, and the holder may serve on only as during an outage of the table: by its peer's promises."""
    scene.expect_in_logs("lease runs out", also=(rf"^sidecar::core: (cannot read the lease row|the lease row was not written): item lease of {scene.cluster.name}[ ,].*",))
    good = _item(scene, "lease")[attribute]
    # A new version, as every writer makes one.
    _write(scene, {attribute: value, "nonce": {"S": "by-hand-1"}})
    foreign = _item(scene, "lease")
    answer = scene.cluster.invoke("status")
    assert answer["error"]["code"] == "unusable" and told in answer["error"]["message"], answer
    refused = scene.cluster.invoke("switchover", to=scene.standby)
    assert told in refused["error"]["message"], refused
    time.sleep(TTL_S)
    for node, look in {node: _status_of(scene, node) for node in scene.network.nodes}.items():
        assert look["status"] == 2 and told in look["stdout"].split("!!", 1)[1], f"{node}: {look['stdout']}"
        assert "no takeover" in look["stdout"] or "no automatic failover" in look["stdout"], look["stdout"]
    scene.cloud.cut(scene.active, scene.standby)
    cut = time.monotonic()
    time.sleep(2 * TTL_S)
    late = [one for node in scene.network.nodes for one in scene.clients.pinned[node].answers(cut + 1.5 * TTL_S) if one.ok]
    assert late == [], f"{late[0].answered_by} served without a lease or a promise"
    assert _item(scene, "lease") == foreign, "the row was rewritten by a program that cannot read it"
    for node, log in scene.logs().items():
        assert told in log, f"{node} does not say why it cannot go on:\n{log[-2000:]}"
    assert _changes(scene) == []
    scene.cloud.heal()
    _write(scene, {attribute: good, "nonce": {"S": "by-hand-2"}})
    scene.whole_again(limit_s=75)


def _status_of(scene, node):
    return scene.cluster.execute(node, str(BINARY), "status", "--socket", str(scene.cluster.files[node].admin_socket))


def _write(scene, attributes):
    scene.cloud.client("dynamodb").update_item(
        TableName=scene.cluster.deployment, Key={"cluster": {"S": scene.cluster.name}, "item": {"S": "lease"}},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in attributes) + " ADD #rev :one",
        ExpressionAttributeNames={f"#{name}": name for name in (*attributes, "rev")},
        ExpressionAttributeValues={f":{name}": value for name, value in attributes.items()} | {":one": {"N": "1"}},
    )  # fmt: skip
