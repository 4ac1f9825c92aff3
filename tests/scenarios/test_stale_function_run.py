"""A function run is held just before a route write, its cluster moves on, and the write lands late: it is corrected."""

import time

from .conftest import TTL_S


def test_a_late_write_is_corrected(scene):
    fault = scene.cloud.fault("lambda_detach", service="ec2", action="ReplaceRoute", count=1)
    first, second = scene.active, scene.standby
    scene.cluster.stop_instance(first, force=True)
    scene.cluster.wait_serving(second, above_epoch=scene.epoch, limit_s=4 * TTL_S)
    scene.cluster.wait_until("all routes at the second node", lambda _: set(scene.cluster.routes().values()) == {second}, limit_s=150)
    scene.bring_back(first)
    scene.cluster.wait_until("both in sync", lambda status: status.in_sync == 2)
    # Back to the first, so that the held write (to the second) is now wrong.
    answer = scene.cluster.invoke("switchover", to=first)
    scene.cluster.wait_serving(first, above_epoch=scene.epoch + 1)
    scene.cluster.wait_until("all routes at the first node", lambda _: set(scene.cluster.routes().values()) == {first})
    released = time.monotonic()
    scene.cloud.control("POST", f"faults/{fault}/release", {})
    scene.cluster.wait_until("the late write lands", lambda _: set(scene.cluster.routes().values()) != {first}, limit_s=5)
    scene.cluster.wait_until("the late write is corrected", lambda _: set(scene.cluster.routes().values()) == {first}, limit_s=90)
    print(f"corrected {time.monotonic() - released:.1f} s after it landed; switchover answered {answer}")
