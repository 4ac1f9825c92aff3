"""EventBridge or Lambda is down: the existing service does not notice; a failover that is needed meanwhile comes when they return."""

import time

import pytest

from .conftest import TTL_S


@pytest.mark.parametrize("outage", ["events_outage", "lambda_outage"])
def test_takes_over_when_they_return(scene, outage):
    if outage == "events_outage":
        scene.expect_in_logs(also=(r"^sidecar::bus: event not put .*events_outage",))
    scene.cloud.knobs(**{outage: True})
    time.sleep(2 * TTL_S)
    assert scene.failed_requests() == 0, "the service noticed an outage of the control plane"
    scene.cluster.power_cut(scene.active)
    time.sleep(3 * TTL_S)
    assert scene.cluster.status().holder == scene.active, "nobody can have been nominated without the functions"
    returned = time.monotonic()
    scene.cloud.knobs(**{outage: False})
    scene.taken_over(limit_s=30)
    # Also to who asks that node and no other; the next question may be on its way.
    scene.clients.pinned[scene.standby].wait_for(scene.standby, since=returned, limit_s=5)
