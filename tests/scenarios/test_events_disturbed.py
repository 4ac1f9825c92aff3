"""Events come twice, late and in another order: still one takeover, one epoch, and the routes end where they belong."""

from .conftest import TTL_S


def test_duplicate_late_and_reordered_events(scene):
    scene.cloud.knobs(event_duplicate_probability=1.0, event_delay_ms=50.0, event_delay_spread_ms=1500.0)
    scene.cluster.stop_instance(scene.active, force=True)
    status = scene.taken_over(limit_s=5 * TTL_S)
    assert status.epoch == scene.epoch + 1, f"one failover is one epoch, not {status.epoch - scene.epoch}"
    scene.calm()  # the stopped instance returns while old events are still on their way
    scene.whole_again()
    status = scene.cluster.status()
    assert (status.active, status.epoch) == (scene.standby, scene.epoch + 1), "a late event moved the service"


def test_an_old_event_again_changes_nothing(scene):
    node = scene.network.nodes[scene.active]
    scene.cloud.control("POST", "event", {"source": "aws.ec2", "detail_type": "EC2 Instance State-change Notification",
                                          "detail": {"instance-id": node.instance, "state": "stopped"}})  # fmt: skip
    scene.no_takeover(for_s=2 * TTL_S)
    assert scene.failed_requests() == 0
