"""The active node's volumes' thread hangs, while the rest of its daemon lives: renews the lease, answers its peer, and would go on so
for ever, with nobody served. The daemon ends itself, loudly, and the other node serves all that was acknowledged.
"""

import signal
import time

import pytest

from harness import database, threads, volumes

from .volume_stage import count, volume_stage, watched

HANG_S = 20  # after so long without a turn the daemon ends itself
TOLD = "the volumes' thread stands still: this process ends, and with it the right to serve"


@pytest.fixture(scope="module")
def hanging_stage():
    with volume_stage("leasehold-hang") as scene:
        yield scene


@pytest.fixture
def hanging(hanging_stage):
    with watched(hanging_stage) as scene:
        yield scene


@pytest.mark.parametrize("is_restarted", [False, True], ids=["not restarted", "restarted at once"])
def test_the_active_nodes_volume_thread_hangs(hanging, is_restarted):
    counter = count(hanging, hanging.active)
    counter.wait_for_more(100)
    program = hanging.cluster.program(hanging.active)
    still = threads.Still(threads.named(program["pid"], "volume-group"))
    try:
        hung = time.monotonic()
        if not is_restarted:
            hanging.cluster.kill(hanging.active, signal="CONT", hold=True)  # a signal that does nothing
        time.sleep(HANG_S / 2)
        # What makes it worth a rule: nobody else sees anything wrong.
        assert (hanging.cluster.status().holder, hanging.cluster.status().epoch) == (hanging.active, hanging.epoch)
        assert counter.gap(hung) > HANG_S / 2 - 1, "the thread does not hang: writes are answered"
        # Who comes back within its lease goes on by itself, with another thread.
        server = hanging.active if is_restarted else hanging.standby
        hanging.taken_over(server, limit_s=HANG_S / 2 + 20)
    finally:
        still.let_go()
    ended = hanging.cluster.program(hanging.active)["exits"][-1]
    assert (ended["pid"], ended["status"]) == (program["pid"], -signal.SIGABRT), ended
    assert HANG_S - 1 < ended["monotonic"] - hung < HANG_S + 5, f"it ended after {ended['monotonic'] - hung:.1f} s"
    assert TOLD in volumes.plain(hanging.cluster.log(hanging.active))
    told = counter.stop()
    assert volumes.prefix(volumes.image(hanging.cluster, server), counter) >= told > 0
    later = count(hanging, server)
    later.wait_for_more(100)
    later.stop()
    if not is_restarted:
        hanging.cluster.start(hanging.active)
    hanging.whole_again()
    volumes.wait("the other one follows", lambda: volumes.peer(hanging.cluster, server)["state"] == "in step")
    images = [volumes.image(hanging.cluster, node) for node in (hanging.active, hanging.standby)]
    assert database.differing(images, 20) == []
