"""A planned switchover there and back by `aws lambda invoke`: each with a client's gap of at most one second."""

import time

import pytest


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


@pytest.mark.parametrize("whom", ["the active node", "nobody"])
def test_a_switchover_that_makes_no_sense_is_refused(scene, whom):
    target = scene.active if whom == "the active node" else "zebra"
    answer = scene.cluster.invoke("switchover", to=target)
    assert set(answer) == {"error"}, answer
    assert answer["error"]["code"] == "refused", answer
    assert target in answer["error"]["message"] and answer["error"]["what_to_do"], answer
    scene.no_takeover(for_s=1)
    assert scene.failed_requests() == 0
