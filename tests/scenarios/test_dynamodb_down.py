"""DynamoDB is down for everybody, nodes and functions, while both nodes are up: not one failed request, no failover, and
renewals go on afterwards. It fails in three ways: with an error at once, with silence, and with silence after it has
applied the request."""

import time

import pytest

from .conftest import TTL_S


@pytest.mark.parametrize(
    ("kind", "ttls", "how"),
    [("error", 20, {"status": 503, "code": "ServiceUnavailable"}), ("drop", 20, {}), ("drop_after", 8, {})],
    ids=["errors at once", "requests are lost", "answers are lost"],
)
def test_not_one_failed_request(scene, kind, ttls, how):
    scene.expect_in_logs("DynamoDB away")
    # By the callers' role names: everybody of this deployment, the operator (this test) apart.
    fault = scene.cloud.fault(kind, service="dynamodb", caller=f"{scene.cluster.deployment}*", **how)
    until = time.monotonic() + ttls * TTL_S
    while time.monotonic() < until:
        row = scene.cluster.row()
        assert (row["holder"]["node"], row["epoch"]) == (scene.active, scene.epoch), f"moved: {scene.cluster.status()}"
        time.sleep(0.5)
    hit = next(one for one in scene.cloud.control("GET", "faults") if one["id"] == fault)
    assert hit["hits"] > ttls, f"the outage hit nobody: {hit}"
    if kind != "drop_after":
        beat = scene.cluster.row()["beat"]
        time.sleep(1)
        assert scene.cluster.row()["beat"] == beat, "somebody still renewed"
    scene.cloud.end_fault(fault)
    beat = scene.cluster.row()["beat"]
    scene.cluster.wait_until(
        "renewals go on", lambda status: status.row["beat"] > beat + 1 and status.epoch == scene.epoch and status.active == scene.active and status.in_sync == 2
    )
    assert scene.failed_requests() == 0
    scene.no_takeover(for_s=2 * TTL_S)
