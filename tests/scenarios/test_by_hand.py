"""What an operator does by `aws lambda invoke`: looks, reads the history, forces a failover. Every answer has the fields that
`lambdas/src/api.rs` documents; a failover by force is refused while its holder may still serve, and works while paused."""

import json
import re
import time
from datetime import datetime

from harness import timeline
from harness.paths import ROOT

from .conftest import TTL_S

API = ROOT / "lambdas" / "src" / "api.rs"
STEP_S = 1.0  # the function polls, so it sees a step a little after it was made


def _documented():
    """The answers in the documentation: status, plan, a move, a refusal, and the history's."""
    text = "".join(line.removeprefix("//!") + "\n" for line in API.read_text().splitlines() if line.startswith("//!"))
    status, plan, move, refusal = (json.loads(block.split("```")[0]) for block in text.split("```json")[1:])
    history = json.loads(re.search(r'`history`: `({"cluster".*})`', text)[1])
    return {"status": status, "plan": plan, "move": move, "refusal": refusal, "history": history}


def _assert_shaped(documented, answer, where="answer"):
    """Whatever key the documentation shows is there, with a value of its type or null."""
    if isinstance(documented, dict) and documented:
        assert isinstance(answer, dict), f"{where}: {answer!r} is no object"
        for name, value in documented.items():
            assert name in answer, f"{where} lacks {name}: {answer}"
            if value is not None and answer[name] is not None:
                _assert_shaped(value, answer[name], f"{where}.{name}")
    elif isinstance(documented, list):
        assert isinstance(answer, list), f"{where}: {answer!r} is no list"
        for one in answer if documented else ():
            _assert_shaped(documented[0], one, f"{where}[]")
    else:
        assert type(answer) is type(documented), f"{where}: {answer!r} is not like {documented!r}"


def _assert_refused(answer, rule, *told):
    _assert_shaped({"code": "", "message": "", "what_to_do": "", "rule": ""}, answer.get("error"), "error")
    assert answer["error"]["code"] == "refused" and answer["error"]["rule"] == rule, answer
    for part in told:
        assert part in json.dumps(answer["error"], ensure_ascii=False).replace('\\"', '"'), answer


def test_status(scene):
    answer = scene.cluster.invoke("status")
    _assert_shaped(_documented()["status"], answer)
    lease = answer["lease"]
    assert (lease["holder"], lease["epoch"], lease["activated"], lease["renewing"], lease["paused"]) == (scene.active, scene.epoch, True, True, None)
    assert answer["summary"].startswith(f"SERVING on {scene.active}, epoch {scene.epoch}") and answer["protected"] is True
    assert answer["network"]["matches"] is True and answer["what_to_do"] is None
    nodes = {one["node"]: one for one in answer["nodes"]}
    assert sorted(nodes) == sorted(scene.network.nodes)
    for name, one in nodes.items():
        expected = (scene.network.nodes[name].instance, "active" if name == scene.active else "standby", True, name == scene.active)
        assert (one["instance"], one["role"], one["in_sync"], one["holder"]) == expected, one
    _assert_shaped(_documented()["plan"], scene.cluster.invoke("plan", to=scene.standby))
    assert scene.failed_requests() == 0


def test_history_is_newest_first_and_limited(scene):
    scene.cluster.invoke("pause", reason="to be read")
    scene.cluster.invoke("resume")
    answer = scene.cluster.invoke("history", limit=2)
    assert set(answer) == {"cluster", "events"} and len(answer["events"]) == 2, answer
    for event in answer["events"]:
        assert {"time", "id", "kind", "detail"} <= set(event), event
    assert [event["kind"] for event in answer["events"]] == ["Resumed", "Paused"], answer
    assert answer["events"][1]["detail"]["reason"] == "to be read"
    everything = scene.cluster.invoke("history", limit=200)["events"]
    times = [event["time"] for event in everything]
    assert times == sorted(times, reverse=True) and everything[:2] == answer["events"]
    assert len(scene.cluster.invoke("history")["events"]) <= 20
    for limit in (0, 201):
        refused = scene.cluster.invoke("history", limit=limit)
        assert refused["error"]["code"] == "bad_request" and "1 to 200" in refused["error"]["message"], refused


def test_a_failover_from_a_living_holder_is_refused(scene):
    for more in ({}, {"to": scene.standby}, {"accept_data_loss": True}):
        _assert_refused(scene.cluster.invoke("failover", **more), "R410", f"holder {scene.active} is alive and well", '{"action":"switchover"}')
    scene.no_takeover(for_s=TTL_S)
    assert set(scene.cluster.routes().values()) == {scene.active}
    row = scene.cluster.row()
    assert row.get("nominee") is None and row.get("intent") is None, row
    assert scene.failed_requests() == 0


def test_a_failover_by_force_needs_proof_and_works_while_paused(scene):
    scene.cluster.invoke("pause", reason="maintenance")
    scene.cluster.power_cut(scene.active)
    time.sleep(2 * TTL_S)
    # Silent, but EC2 calls its machine running.
    _assert_refused(scene.cluster.invoke("failover"), "R410", "no proof", scene.network.nodes[scene.active].instance, "stop or terminate it")
    scene.cluster.stop_instance(scene.active, force=True)
    ec2 = scene.cloud.client("ec2")
    ec2.get_waiter("instance_stopped").wait(InstanceIds=[scene.network.nodes[scene.active].instance], WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    time.sleep(TTL_S)
    status = scene.cluster.status()
    assert (status.holder, status.epoch) == (scene.active, scene.epoch), "somebody decided although the cluster is paused"
    answer = scene.cluster.invoke("failover", reason="it is dead")
    documented = _documented()["move"]
    _assert_shaped(documented, answer)
    assert (answer["outcome"], answer["rule"], answer["reason"]) == ("completed", "R410", "it is dead"), answer
    moved = answer["timeline"]
    assert (moved["rule"], moved["from"], moved["to"], moved["epoch"]) == ("R410", scene.active, scene.standby, scene.epoch + 1), moved
    assert (answer["network"]["holder"], answer["network"]["epoch"], answer["network"]["failed"]) == (scene.standby, scene.epoch + 1, []), answer
    scene.taken_over()
    assert set(scene.cluster.routes().values()) == {scene.standby}
    assert scene.cluster.row()["paused"]["reason"] == "maintenance", "who forces a failover does not end the pause"
    nominated = [one["params"]["written"]["nominee"] for one in scene.cloud.audit(scene.audit_mark)
                 if one["applied"] and isinstance((one["params"].get("written") or {}).get("nominee"), dict)]  # fmt: skip
    assert [(one["node"], one["rule"], one["lossy"]) for one in nominated] == [(scene.standby, "R410", False)], nominated
    assert nominated[0]["proof"], "nominated without proof of death"


def test_the_history_tells_a_failover_as_it_was(scene):
    scene.cluster.kill(scene.active, everything=True, hold=True)
    epoch = scene.taken_over(limit_s=4 * TTL_S).epoch

    def completed():
        return [one for one in scene.cluster.invoke("history", limit=50)["events"]
                if one["kind"] == "Failover Completed" and one["detail"]["timeline"]["epoch"] == epoch]  # fmt: skip

    until = time.monotonic() + 10
    while not (events := completed()) and time.monotonic() < until:
        time.sleep(0.2)
    assert len(events) == 1, scene.history()
    told = events[0]["detail"]["timeline"]
    _assert_shaped(_documented()["move"]["timeline"], told)
    assert (told["rule"], told["from"], told["to"]) == ("R210", scene.active, scene.standby), told
    assert TTL_S * 1000 > told["silent_ms"] > 0, told
    # Each step as the function saw it, against when it was applied.
    seen, began = scene.steps(), timeline.monotonic(datetime.fromisoformat(told["began"]).timestamp())
    at = -1
    for what, pattern in (("nominated", f"R210 nominated {scene.standby} "), ("accepted", f"{scene.standby} accepted, epoch {epoch}"),
                          ("routes moved", rf"{len(scene.network.route_tables)} routes moved: all lead to {scene.standby}")):  # fmt: skip
        found = [(number, step) for number, step in enumerate(told["steps"]) if re.match(pattern, step["what"])]
        assert found and found[0][0] > at, f"{what} is missing or out of order: {told['steps']}"
        at, step = found[0]
        off = began + step["at_ms"] / 1000 - seen[what]
        assert abs(off) < STEP_S, f"{what}: told {off:+.2f} s from when it happened; {told}"
    assert [step["at_ms"] for step in told["steps"]] == sorted(step["at_ms"] for step in told["steps"])
    put = [json.loads(entry["detail"]) if isinstance(entry["detail"], str) else entry["detail"]
           for one in scene.cloud.audit(scene.audit_mark) if one["action"] == "PutEvents" and "function" in one["caller"]
           for entry in one["params"]["entries"] if entry["detail_type"] == "Failover Completed"]  # fmt: skip
    assert [one["timeline"] for one in put] == [told], "the bus heard something else"
