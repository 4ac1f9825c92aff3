"""Only the workload of the active node dies; its daemon, machine and network live on.

The holder asks to be relieved and the standby continues (R300): nothing has to run out first. Where nobody could continue, or
nobody may decide, the holder starts the workload again itself.
"""

from harness import answers, timeline

from .conftest import TTL_S

NOTICED_S = 12  # a check each 5 s, two in a row must fail; and some time for a busy machine
RELIEVED_S = 1.5  # from the failure's being told to the first answer of the standby
RESTARTED_S = 1.5  # the same, of the holder itself, where nobody is asked
PATIENCE_S = 5  # for which a holder with a standby waits to be relieved

TOLD = (r"^sidecar::core: resource nginx failed: ",)
KILL = 'pid=$(cat "$0/nginx/nginx.pid") && kill -KILL "$pid" $(pgrep -P "$pid")'


def _kill_workload(scene):
    done = scene.cluster.execute(scene.active, "/bin/sh", "-c", KILL, str(scene.cluster.files[scene.active].home))
    assert done["status"] == 0, done


def test_the_standby_continues(scene):
    scene.expect_in_logs(also=TOLD)
    _kill_workload(scene)
    scene.taken_over(limit_s=NOTICED_S + RELIEVED_S)
    answered = answers.first_answer(scene.clients.client.answers(scene.mark), scene.standby, scene.mark)
    told = _told(scene, "Resource Failed")
    assert told and _told(scene, "Handover Requested") and answered - told[0] < RELIEVED_S, (told, answered)
    assert "R300" in scene.rules() and not {"R200", "R210"} & set(scene.rules()), scene.history()
    assert "active -> handing-over" in scene.logs()[scene.active], scene.logs()[scene.active]
    scene.whole_again()
    assert scene.cluster.status().active == scene.standby


def test_without_a_standby_it_is_started_again(scene):
    scene.expect_in_logs(also=TOLD)
    scene.cluster.power_cut(scene.standby)
    scene.cluster.wait_until("alone in sync", lambda status: status.in_sync == 1)
    _started_again_here(scene, RESTARTED_S)
    blocked = [event["detail"] for event in scene.history() if event["kind"] == "Failover Blocked"]
    assert blocked and {one["rule"] for one in blocked} == {"R300"}, "an operator must read that nobody could continue"


def test_while_paused_it_is_started_again(scene):
    scene.expect_in_logs(also=TOLD)
    scene.cluster.invoke("pause", reason="maintenance")
    _started_again_here(scene, PATIENCE_S + RESTARTED_S)
    assert "R100" in scene.rules() and "R300" not in scene.rules(), scene.history()


def _started_again_here(scene, limit_s):
    _kill_workload(scene)
    scene.cluster.wait_until("the failure is told", lambda _: _told(scene, "Resource Failed") != [], limit_s=NOTICED_S)
    told = _told(scene, "Resource Failed")[0]
    answered = scene.clients.client.wait_for(scene.active, since=told, limit_s=limit_s + 2).done
    assert answered - told < limit_s, f"{answered - told:.2f} s"
    scene.no_takeover(for_s=TTL_S)


def _told(scene, detail_type):
    """When the active node's daemon put such events on the bus since the story began."""
    instance = scene.network.nodes[scene.active].instance
    return [timeline.monotonic(one["time"]) for one in scene.cloud.audit(scene.audit_mark)
            if one["action"] == "PutEvents" and one["applied"] and one["caller"].get("instance") == instance
            for entry in one["params"]["entries"] if entry["detail_type"] == detail_type]  # fmt: skip
