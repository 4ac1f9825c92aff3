"""Two ways to stand still for 0.5, 1 and 3 ttl. First: every process of the active node stands still (as under SIGSTOP) for 0.5, 1 and 3 ttl, then goes on.

Short of the lease nothing happens but a pause. Beyond it the standby serves, and the node that wakes up must not: what it
may leak are answers given before its gate runs again (S1-serve), never later.

Second: the daemon alone, while its workload and its address live on. The address has a lifetime in the kernel, which nobody
renews: it goes by itself before another node may serve, so nothing is forgiven here.
"""

import time

import pytest

from harness import answers
from harness.judges import Leak

from .conftest import TTL_S

BACK_S = 7  # from the suspension until somebody serves, whoever it is
WAKE_S = 0.5  # from the thaw until the gate must have ended what the workload still answers


@pytest.mark.parametrize("ttls", [0.5, 1, 3])
def test_suspended(scene, ttls):
    scene.expect_in_logs("stood still")
    scene.cluster.freeze(scene.active)
    time.sleep(ttls * TTL_S)
    thawed = time.monotonic()
    scene.cluster.thaw(scene.active)
    if ttls <= 1:
        # A request waits up to 1 s in the sleeping node's queue. Later the kernel has taken the address away.
        scene.leaks.append(Leak(scene.active, thawed - 1.1, thawed + WAKE_S))
    if ttls < 1:
        scene.no_takeover(for_s=2 * TTL_S)
    elif ttls > 1:
        scene.taken_over(limit_s=3 * TTL_S)
    elif ttls == 1:
        # Either is right: it wakes up within its lease, or somebody (perhaps itself) takes a new epoch.
        scene.clients.client.wait_for(since=thawed, limit_s=BACK_S)
    assert scene.gap().seconds < BACK_S
    scene.whole_again()
    if ttls != 1:
        assert scene.cluster.status().active == (scene.active if ttls < 1 else scene.standby)


@pytest.mark.parametrize("ttls", [0.5, 1, 3])
def test_the_daemon_alone(scene, ttls):
    scene.expect_in_logs("stood still")
    assert scene.cluster.kill(scene.active, signal="STOP"), "nothing was stopped"
    stopped = time.monotonic()
    time.sleep(ttls * TTL_S)
    went_on = time.monotonic()
    if ttls > 1:
        scene.taken_over(limit_s=3 * TTL_S)
        time.sleep(1.2)
        old = [one for one in scene.clients.pinned[scene.active].answers(stopped) if one.ok]
        served = answers.first_answer(scene.clients.pinned[scene.standby].answers(stopped), scene.standby, stopped)
        last = max(one.sent for one in old)
        assert served is not None and last < served, f"{scene.active} still answered {last - stopped:.2f} s after its daemon stood still, {scene.standby} at {served}"
        assert last - stopped <= TTL_S, f"the address outlived its lease: {last - stopped:.2f} s"
        went_on = time.monotonic()
    scene.cluster.kill(scene.active, signal="CONT")
    if ttls < 1:
        scene.no_takeover(for_s=2 * TTL_S)
        assert scene.failed_requests() == 0
    elif ttls == 1:
        # Either is right: it wakes up within its lease, or somebody (perhaps itself) takes a new epoch.
        scene.clients.client.wait_for(since=went_on, limit_s=BACK_S)
    else:
        # What it had of an expired lease does not come back.
        time.sleep(2)
        late = [one for one in scene.clients.pinned[scene.active].answers(went_on) if one.ok]
        assert late == [], f"{scene.active} answered again {late[0].done - went_on:.2f} s after its daemon went on"
    assert scene.gap().seconds < BACK_S
    scene.whole_again()
    if ttls != 1:
        assert scene.cluster.status().active == (scene.active if ttls < 1 else scene.standby)
