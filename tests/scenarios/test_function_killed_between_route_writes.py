"""The failover function dies between two route writes: the next run finishes the work from what it finds."""

from harness.judges import network_changes

from .conftest import TTL_S


def test_the_rest_is_done_by_the_next_run(scene):
    # The writes of a run go out together: those beside the fatal one may land, that one does not.
    scene.cloud.fault("kill_caller", service="ec2", action="ReplaceRoute", when="before", skip=1, count=1)
    scene.cluster.stop_instance(scene.active, force=True)
    scene.cluster.wait_serving(scene.standby, above_epoch=scene.epoch, limit_s=4 * TTL_S)
    # Lambda's own retry of a failed asynchronous run comes after a minute; another hint or `watch` may be earlier.
    scene.cluster.wait_until("all routes at the new node", lambda _: set(scene.cluster.routes().values()) == {scene.standby}, limit_s=150)
    scene.clients.client.wait_for(scene.standby)
    killed = [run for run in scene.invocations() if run["status"] not in ("ok", "success", "running", "succeeded")]
    assert killed, "no run was killed: the fault did not fire"
    assert len({one["caller"].get("environment") for one in network_changes(scene.cloud.audit(scene.audit_mark))}) >= 2
