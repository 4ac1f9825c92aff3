"""The failover function dies between two route writes: the next run finishes the work from what it finds.

Nobody repeats the dead run: the stack gives Lambda no retries of a failed run. What takes the work up is the next event of the
same failover (a repeated suspicion, the new holder's `Failover Accepted`), and at the latest `watch`, which looks each minute.
"""

from harness.judges import network_changes

from .conftest import TTL_S


def test_the_rest_is_done_by_the_next_run(scene):
    # The writes of a run go out together: those beside the fatal one may land, that one does not.
    scene.cloud.fault("kill_caller", service="ec2", action="ReplaceRoute", when="before", skip=1, count=1)
    scene.cluster.stop_instance(scene.active, force=True)
    scene.cluster.wait_serving(scene.standby, above_epoch=scene.epoch, limit_s=4 * TTL_S)
    # Not by a retry of Lambda's: another event takes it up, or `watch` within a minute.
    scene.cluster.wait_until("all routes at the new node", lambda _: set(scene.cluster.routes().values()) == {scene.standby}, limit_s=150)
    scene.clients.client.wait_for(scene.standby)
    killed = [run for run in scene.invocations() if run["status"] not in ("ok", "success", "running", "succeeded")]
    assert killed, "no run was killed: the fault did not fire"
    assert {run["attempt"] for run in scene.invocations()} == {1}, "Lambda repeated a failed run"
    assert len({one["caller"].get("environment") for one in network_changes(scene.cloud.audit(scene.audit_mark))}) >= 2
