"""DynamoDB is down for 20 x ttl while both nodes are up: not one failed request, no failover, and renewals go on afterwards."""

from .conftest import TTL_S


def test_not_one_failed_request(scene):
    fault = scene.cloud.fault("error", service="dynamodb", status=503, code="ServiceUnavailable", caller=f"*{scene.cluster.name}*")
    until = scene.mark + 20 * TTL_S
    scene.clients.client.wait_for(scene.active, since=until, limit_s=25 * TTL_S)
    scene.cloud.end_fault(fault)
    scene.cluster.wait_until("renewals go on", lambda status: status.epoch == scene.epoch and status.active == scene.active and status.in_sync == 2)
    assert scene.failed_requests() == 0
    scene.no_takeover(for_s=2 * TTL_S)
