"""Active and standby lose each other, both reach DynamoDB: no failover, not one failed request; the standby leaves the
in-sync set and returns. One way, too.
"""

import pytest

from .conftest import TTL_S


@pytest.mark.parametrize("one_way", [None, "from the active", "from the standby"])
def test_no_failover(scene, one_way):
    match one_way:
        case None:
            scene.cloud.cut(scene.active, scene.standby)
        case "from the active":
            scene.cloud.cut(scene.active, scene.standby, one_way=True)
        case "from the standby":
            scene.cloud.cut(scene.standby, scene.active, one_way=True)
    scene.no_takeover(for_s=3 * TTL_S)
    scene.cloud.heal()
    scene.cluster.wait_until("both in sync again", lambda status: status.in_sync == 2 and status.epoch == scene.epoch)
    assert scene.failed_requests() == 0
