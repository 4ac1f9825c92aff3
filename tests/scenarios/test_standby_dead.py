"""The standby dies: the active serves on without a failed request, takes it out of the in-sync set and back in when it returns.

And then both: the standby that is not in sync never takes over (R230); the active itself does, when it returns.
"""

import time

from .conftest import TTL_S


def test_the_active_serves_on(scene):
    scene.cluster.power_cut(scene.standby)
    scene.cluster.wait_until("alone in sync", lambda status: status.in_sync == 1 and status.active == scene.active)
    scene.no_takeover(for_s=3 * TTL_S)
    scene.cluster.power_back(scene.standby)
    scene.cluster.wait_until("both in sync again", lambda status: status.in_sync == 2)
    assert scene.failed_requests() == 0
    assert scene.cluster.status().epoch == scene.epoch


def test_a_standby_out_of_sync_does_not_take_over(scene):
    scene.cluster.power_cut(scene.standby)
    scene.cluster.wait_until("alone in sync", lambda status: status.in_sync == 1)
    scene.cloud.cut(scene.active, scene.standby)  # so that it does not get in sync before the active dies
    scene.cluster.power_back(scene.standby)
    time.sleep(TTL_S)
    scene.cluster.power_cut(scene.active)
    time.sleep(4 * TTL_S)
    assert scene.cluster.status().holder == scene.active
    # An operator reads why nothing happens, and who is missing.
    blocked = [event for event in scene.history() if event["kind"] == "Failover Blocked" and event["detail"]["rule"] == "R230"]
    assert blocked, f"nobody told that the cluster waits for a person: {scene.history()}"
    assert blocked[0]["detail"]["epoch"] == scene.epoch and blocked[0]["detail"]["why"], blocked
    assert not {"R200", "R210"} & set(scene.rules()), scene.history()
    scene.cloud.heal()
    scene.cluster.power_back(scene.active)
    scene.cluster.wait_serving(scene.active, above_epoch=scene.epoch, limit_s=40)
    scene.whole_again()
