"""Somebody changes the network by hand: routes led to the standby, the source/destination check switched on. `watch`
makes the routes match the holder again and says so; a takeover switches the check off before packets need it."""

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


def test_a_takeover_switches_the_source_destination_check_off(scene):
    eni = scene.network.nodes[scene.standby].eni
    ec2 = scene.cloud.client("ec2")
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, SourceDestCheck={"Value": True})
    scene.audit_mark = scene.cloud.audit_mark()
    scene.cluster.invoke("switchover", to=scene.standby)
    scene.taken_over()
    described = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    assert described["SourceDestCheck"] is False
