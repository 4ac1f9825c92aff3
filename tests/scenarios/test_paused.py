"""A paused cluster: the active node dies and nothing is decided (R100), until somebody resumes it."""

import time

from .conftest import TTL_S


def test_nothing_is_decided_while_paused(scene):
    scene.cluster.invoke("pause", reason="maintenance")
    scene.cluster.power_cut(scene.active)
    time.sleep(4 * TTL_S)
    status = scene.cluster.status()
    assert (status.holder, status.epoch) == (scene.active, scene.epoch)
    assert "R100" in scene.rules(), scene.history()
    scene.cluster.invoke("resume")
    scene.taken_over(limit_s=70)  # by the next hint of the standby, else by `watch` within a minute


def test_pause_and_resume_do_not_touch_the_service(scene):
    scene.cluster.invoke("pause", reason="maintenance")
    scene.no_takeover(for_s=2 * TTL_S)
    scene.cluster.invoke("resume")
    scene.no_takeover(for_s=TTL_S)
    assert scene.failed_requests() == 0
