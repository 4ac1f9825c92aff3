"""The active node is cut off from everything: the standby takes over, and the old one serves nothing after its deadline.

The probers pinned to each node are inside the cut as seen from the nodes' peers, not from the clients: clients still reach the
old node, so its own gate has to stop it.
"""

import time

from harness import answers

from .conftest import TTL_S


def test_takeover_while_clients_still_reach_the_old_node(scene):
    scene.expect_in_logs("AWS away", "lease runs out")
    began = time.monotonic()
    scene.cloud.cut(scene.active, "aws")
    scene.cloud.cut(scene.active, scene.standby)
    scene.taken_over(limit_s=4 * TTL_S)
    assert scene.gap().seconds < 7
    assert "R210" in scene.rules(), scene.history()
    # The lease counts from the send of its last renewal, so nothing of the old node is later than one ttl after the cut.
    late = [one for one in scene.clients.pinned[scene.active].answers(began + TTL_S) if one.ok]
    assert late == [], f"{scene.active} answered {len(late)} requests after its deadline, the last {late[-1].done - began:.2f} s after the cut"
    scene.cloud.heal()
    scene.whole_again()
    assert scene.cluster.status().active == scene.standby


def test_cut_from_everything(scene):
    scene.expect_in_logs("AWS away", "lease runs out")
    scene.cloud.cut(scene.active, "*")
    scene.taken_over(limit_s=4 * TTL_S)
    assert scene.gap().seconds < 7
    healed = time.monotonic()
    scene.cloud.heal()
    scene.whole_again()
    assert answers.count(scene.clients.pinned[scene.active].answers(healed)) == 0, "the old node answered after it was healed"
