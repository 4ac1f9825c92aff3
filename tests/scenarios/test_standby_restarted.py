"""The standby's daemon is restarted, as by `systemctl restart leasehold` or an upgrade: clients do not notice, and it is back in
sync by itself, although it is another incarnation that returns before anybody missed the one before."""

from .conftest import TTL_S


def test_it_gets_in_sync_again(scene):
    old = set(scene.cluster.row()["in_sync"])
    scene.cluster.stop(scene.standby)
    scene.cluster.start(scene.standby)
    scene.cluster.wait_until("another incarnation in sync", lambda status: status.in_sync == 2 and status.row["in_sync"] != old, limit_s=5 * TTL_S)
    assert scene.cluster.status().epoch == scene.epoch
    assert scene.failed_requests() == 0
