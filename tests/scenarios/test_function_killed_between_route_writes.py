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


def test_a_failover_whose_driver_died_after_its_last_route_has_its_timeline(scene):
    """Nothing is left to do but to tell: the new holder's word, or `watch` at the latest, leads to that."""
    scene.cloud.fault("kill_caller", service="ec2", action="ReplaceRoute", when="after", skip=len(scene.network.route_tables) - 1, count=1)
    scene.cluster.stop_instance(scene.active, force=True)
    epoch = scene.cluster.wait_serving(scene.standby, above_epoch=scene.epoch, limit_s=4 * TTL_S).epoch

    def timelines():
        completed = (one["detail"]["timeline"] for one in scene.history() if one["kind"] == "Failover Completed")
        return [one for one in completed if one["epoch"] == epoch]

    scene.cluster.wait_until("the failover's timeline", lambda _: timelines(), limit_s=150)
    killed = [run for run in scene.invocations() if run["status"] not in ("ok", "success", "running", "succeeded")]
    assert killed, "no run was killed: the fault did not fire"
    changes = network_changes(scene.cloud.audit(scene.audit_mark))
    assert len(changes) == len(scene.network.route_tables), "there was more left to do than to tell"
    told = timelines()
    assert len(told) == 1, told
    assert (told[0]["from"], told[0]["to"], told[0]["rule"]) == (scene.active, scene.standby, "R200"), told
