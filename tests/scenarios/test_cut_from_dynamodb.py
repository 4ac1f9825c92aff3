"""The active node loses DynamoDB and nothing else: it serves on, carried by its standby's promises, and nobody takes over (R220).

The standby sees the row stand still and says so; the function hears that the standby still hears the holder, and refuses.
"""

from .conftest import TTL_S


def test_no_failover_and_no_failed_request(scene):
    scene.expect_in_logs("DynamoDB away")
    fault = scene.cloud.fault("refuse", service="dynamodb", caller=scene.network.nodes[scene.active].instance)
    scene.no_takeover(for_s=5 * TTL_S)
    assert scene.failed_requests() == 0
    assert "R220" in scene.rules(), scene.history()
    scene.cloud.end_fault(fault)
    beat = scene.cluster.row()["beat"]
    scene.cluster.wait_until("renewals go on", lambda status: status.row["beat"] > beat and status.epoch == scene.epoch)
    assert scene.failed_requests() == 0


def test_cut_from_the_whole_of_aws_by_the_network(scene):
    """The same where packets vanish instead of connections being refused."""
    scene.expect_in_logs("AWS away")
    scene.cloud.cut(scene.active, "aws")
    scene.no_takeover(for_s=5 * TTL_S)
    scene.cloud.heal()
    beat = scene.cluster.row()["beat"]
    scene.cluster.wait_until("renewals go on", lambda status: status.row["beat"] > beat and status.epoch == scene.epoch)
    assert scene.failed_requests() == 0
