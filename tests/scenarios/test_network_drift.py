"""Somebody changes the network by hand: routes led to the standby, a route deleted or made in a table of nobody's, the
source/destination check switched on. `watch` makes the routes match the holder again and says so, tells what only a person
can put right, and switches the check off before packets need it, as a takeover does that comes first."""

import json
import time

from harness import network as networks


def _watch(scene):
    """The minute's tick, now."""
    answer = scene.cloud.client("lambda").invoke(FunctionName=f"{scene.cluster.deployment}-watch", Payload=b"{}")
    content = json.loads(answer["Payload"].read())
    assert not answer.get("FunctionError"), content
    return content


# A function that has just moved the routes looks at them twice more, and would correct them before `watch` sees them.
SECOND_LOOKS_S = 5


def test_watch_corrects_routes_that_somebody_moved(scene):
    time.sleep(SECOND_LOOKS_S)
    networks.move_routes(scene.cloud, scene.network, scene.standby)
    scene.audit_mark = scene.cloud.audit_mark()  # what this test did by hand is not the product's doing
    assert set(scene.cluster.routes().values()) == {scene.standby}
    _watch(scene)
    assert set(scene.cluster.routes().values()) == {scene.active}
    told = json.dumps(scene.history())
    assert "changes" in told and scene.network.route_tables[0] in told, told
    scene.no_takeover(for_s=1)


def test_a_route_that_only_a_person_can_put_right_is_told(scene):
    """One listed table has lost its route and is not to be given one; another VPC table routes the address and is not listed."""
    ec2, route = scene.cloud.client("ec2"), {"DestinationCidrBlock": f"{scene.network.virtual_ip}/32"}
    active = scene.network.nodes[scene.active].eni
    gone = scene.network.route_tables[-1]
    time.sleep(SECOND_LOOKS_S)
    stranger = ec2.create_route_table(VpcId=scene.network.vpc)["RouteTable"]["RouteTableId"]
    ec2.delete_route(RouteTableId=gone, **route)
    ec2.create_route(RouteTableId=stranger, NetworkInterfaceId=active, **route)
    scene.audit_mark = scene.cloud.audit_mark()
    told = [f"missing route: {gone}", f"route not listed: {stranger}"]
    for _ in range(2):
        did = _watch(scene)["clusters"]["web"]["did"]
        assert all(any(one.startswith(problem) for one in did) for problem in told), did
    for problems in (scene.cluster.invoke("status")["network"]["problems"], scene.cluster.invoke("plan", to=scene.standby)["problems"]):
        assert [one[: len(problem)] for one, problem in zip(problems, told, strict=True)] == told, problems
    once = [one["detail"]["problems"] for one in scene.history() if one["kind"] == "Network Incomplete"]
    assert len(once) == 1 and len(once[0]) == 2, once
    assert not [one for one in scene.cloud.audit(scene.audit_mark) if one["action"] in ("CreateRoute", "ReplaceRoute")]
    ec2.delete_route_table(RouteTableId=stranger)
    ec2.create_route(RouteTableId=gone, NetworkInterfaceId=active, **route)
    scene.audit_mark = scene.cloud.audit_mark()
    assert _watch(scene)["clusters"]["web"]["did"] == []


def test_watch_makes_the_standbys_interface_ready_before_its_turn(scene):
    eni = scene.network.nodes[scene.standby].eni
    ec2 = scene.cloud.client("ec2")
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": True})
    scene.audit_mark = scene.cloud.audit_mark()
    did = _watch(scene)["clusters"]["web"]["did"]
    assert ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]["SourceDestCheck"] is False
    # The minute's own visit may have come first; then it was that which told.
    assert any(eni in one for one in did) or eni in json.dumps(scene.history()), did


def test_a_takeover_switches_the_source_destination_check_off(scene):
    eni = scene.network.nodes[scene.standby].eni
    ec2 = scene.cloud.client("ec2")
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": True})
    scene.audit_mark = scene.cloud.audit_mark()
    scene.cluster.invoke("switchover", to=scene.standby)
    scene.taken_over()
    described = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    assert described["SourceDestCheck"] is False
