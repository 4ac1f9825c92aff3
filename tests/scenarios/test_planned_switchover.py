"""A planned switchover there and back by `aws lambda invoke`: each with a client's gap of at most one second."""

import time


def test_there_and_back(scene):
    for number, target in enumerate((scene.standby, scene.active)):
        began = time.monotonic()
        scene.cluster.invoke("switchover", to=target)
        scene.cluster.wait_serving(target, above_epoch=scene.epoch + number)
        scene.clients.client.wait_for(target, since=began)
        scene.whole_again()
        assert scene.gap(began).seconds <= 1.0
    assert "R400" in scene.rules()


def test_a_dry_run_changes_nothing(scene):
    plan = scene.cluster.invoke("plan", to=scene.standby)
    assert all(table in str(plan) for table in scene.network.route_tables), plan
    scene.no_takeover(for_s=1)
    assert set(scene.cluster.routes().values()) == {scene.active}


def test_a_switchover_to_the_active_node_or_to_nobody_is_refused(scene):
    for target in (scene.active, "zebra"):
        answer = scene.cluster.invoke("switchover", to=target)
        assert target in str(answer) and "error" in str(answer).lower() or "refus" in str(answer).lower() or "block" in str(answer).lower(), answer
    scene.no_takeover(for_s=1)
    assert scene.failed_requests() == 0
