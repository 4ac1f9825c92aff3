"""Every process of the active node stands still (as under SIGSTOP) for 0.5, 1 and 3 ttl, then goes on.

Short of the lease nothing happens but a pause. Beyond it the standby serves, and the node that wakes up must not: what it
may leak are answers given before its gate runs again (S1-serve), never later.
"""

import time

import pytest

from harness.judges import Leak

from .conftest import TTL_S

WAKE_S = 0.5  # from the thaw until the gate must have ended what the workload still answers


@pytest.mark.parametrize("ttls", [0.5, 1, 3])
def test_suspended(scene, ttls):
    scene.cluster.freeze(scene.active)
    time.sleep(ttls * TTL_S)
    thawed = time.monotonic()
    scene.cluster.thaw(scene.active)
    scene.leaks.append(Leak(scene.active, thawed - 1.1, thawed + WAKE_S))  # a request waits up to 1 s in the sleeping node's queue
    if ttls < 1:
        scene.no_takeover(for_s=2 * TTL_S)
    elif ttls > 1:
        scene.taken_over(limit_s=3 * TTL_S)
    scene.whole_again()
    assert scene.cluster.status().active == (scene.standby if ttls > 1 else scene.cluster.status().holder)
