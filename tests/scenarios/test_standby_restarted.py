"""The standby's daemon is restarted, as by `systemctl restart leasehold` or an upgrade: it leaves the in-sync set in order,
is back in it by itself, and clients notice nothing."""

from .conftest import TTL_S


def test_it_gets_in_sync_again(scene):
    scene.cluster.stop(scene.standby)
    scene.cluster.wait_until("the standby has left", lambda status: status.in_sync == 1, limit_s=2 * TTL_S)
    scene.cluster.start(scene.standby)
    scene.cluster.wait_until("the standby is in sync again", lambda status: status.in_sync == 2, limit_s=3 * TTL_S)
    assert scene.cluster.status().epoch == scene.epoch
    assert scene.failed_requests() == 0
