"""What only an operator may order: a failover to a standby that may lack writes, and one that stops the holder's instance first.
Both are refused without the word that says so, and do what they say with it."""

import json
import time

from .conftest import TTL_S


def _stopped(scene, node):
    """Until EC2 says so."""
    waiter = scene.cloud.client("ec2").get_waiter("instance_stopped")
    waiter.wait(InstanceIds=[scene.network.nodes[node].instance], WaiterConfig={"Delay": 1, "MaxAttempts": 30})


def _refused(answer, *told):
    text = json.dumps(answer.get("error"), ensure_ascii=False)
    assert answer["error"]["code"] == "refused" and all(part in text for part in told), answer


def test_to_a_standby_that_is_not_in_sync_the_loss_must_be_accepted(scene):
    scene.cluster.power_cut(scene.standby)
    scene.cluster.wait_until("alone in sync", lambda status: status.in_sync == 1)
    scene.cloud.cut(scene.active, scene.standby)  # so that it does not get in sync before the active dies
    scene.cluster.power_back(scene.standby)
    scene.cluster.wait_until("the standby is back", lambda status: (status.heartbeats[scene.standby] or {}).get("role") == "standby")
    scene.cluster.stop_instance(scene.active, force=True)
    _stopped(scene, scene.active)
    time.sleep(2 * TTL_S)
    assert scene.cluster.status().holder == scene.active, "a standby that is not in sync took over by itself"
    _refused(scene.cluster.invoke("failover"), "accept_data_loss", scene.standby)
    assert scene.cluster.row().get("nominee") is None
    answer = scene.cluster.invoke("failover", accept_data_loss=True, reason="its disk is gone")
    assert (answer["outcome"], answer["rule"], answer["reason"]) == ("completed", "R410", "its disk is gone"), answer
    status = scene.taken_over()
    assert (status.in_sync, status.epoch) == (1, scene.epoch + 1), "whoever was left behind is no member any more"
    nominated = [one["params"]["written"]["nominee"] for one in scene.cloud.audit(scene.audit_mark)
                 if one["applied"] and isinstance((one["params"].get("written") or {}).get("nominee"), dict)]  # fmt: skip
    assert [(one["node"], one["lossy"]) for one in nominated] == [(scene.standby, True)], nominated
    scene.calm()
    scene.whole_again()
    assert scene.cluster.status().active == scene.standby


def test_a_holder_that_ec2_calls_running_is_stopped_first(scene):
    instance = scene.network.nodes[scene.active].instance
    scene.cluster.invoke("pause", reason="an operator decides")
    scene.cluster.power_cut(scene.active)
    time.sleep(2 * TTL_S)
    _refused(scene.cluster.invoke("failover"), "no proof", instance)
    answer = scene.cluster.invoke("failover", force_stop=True)
    assert (answer["outcome"], answer["rule"]) == ("completed", "R410"), answer
    stops = [one for one in scene.cloud.audit(scene.audit_mark) if one["action"] == "StopInstances" and one["applied"]]
    assert [("function" in one["caller"], instance in json.dumps(one["params"])) for one in stops] == [(True, True)], stops
    accepted = scene.steps()["accepted"]
    scene.taken_over()
    _stopped(scene, scene.active)
    assert accepted > scene.mark + 2 * TTL_S
    assert set(scene.cluster.routes().values()) == {scene.standby}
    scene.cluster.invoke("resume")
    scene.calm()
    scene.whole_again()
