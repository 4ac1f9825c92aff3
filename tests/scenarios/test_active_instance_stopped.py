"""The active instance is stopped, politely and by force; the standby serves, and the stopped node comes back as the standby.

A polite stop tells the daemon, which hands over or releases: shorter than the lease. A forced one tells nobody; what ends the
wait is AWS's word that the instance is stopped (R200), or the silence itself (R210).
"""

import pytest

from .conftest import TTL_S


@pytest.mark.parametrize("force", [False, True], ids=["politely", "by force"])
def test_the_standby_takes_over(scene, force):
    scene.cluster.stop_instance(scene.active, force=force)
    scene.taken_over(limit_s=3 * TTL_S)
    assert scene.gap().seconds < 7
    assert set(scene.rules()) & {"R200", "R210", "R250", "R300"}, scene.history()
    assert set(scene.cluster.routes().values()) == {scene.standby}

    scene.calm()
    scene.whole_again()
    assert scene.cluster.status().active == scene.standby, "a node that returns is the standby; nothing moves back by itself"
