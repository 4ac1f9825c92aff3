"""The active node's daemon is killed and its supervisor restarts it at once: within its lease it takes a new epoch itself.

The workload went with it (its unit's cgroup), so clients see a gap; but the service stays on its node and no route changes.
"""

from harness.judges import network_changes

from .conftest import TTL_S


def test_the_node_keeps_its_cluster(scene):
    scene.cluster.kill(scene.active)
    status = scene.cluster.wait_serving(scene.active, above_epoch=scene.epoch, limit_s=3 * TTL_S)
    assert status.epoch == scene.epoch + 1
    scene.clients.client.wait_for(scene.active, since=scene.mark + 0.2)
    assert scene.gap().seconds < 2 * TTL_S
    scene.whole_again()
    assert network_changes(scene.cloud.audit(scene.audit_mark)) == []
