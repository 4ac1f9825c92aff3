"""kill -9 of the active node's daemon and workload together, with nobody to restart them; and a power cut that EC2 does not see.

Nothing says goodbye: the lease runs out, the standby is nominated during its wait (R210) and serves within seconds.
"""

from .conftest import TTL_S


def test_daemon_and_workload_killed_for_good(scene):
    scene.cluster.kill(scene.active, everything=True, hold=True)
    scene.taken_over(limit_s=4 * TTL_S)
    assert scene.gap().seconds < 7
    assert "R210" in scene.rules(), scene.history()


def test_power_cut(scene):
    scene.cluster.power_cut(scene.active)
    scene.taken_over(limit_s=4 * TTL_S)
    assert scene.gap().seconds < 7
    assert "R210" in scene.rules(), scene.history()
    scene.cluster.power_back(scene.active)
    scene.whole_again()
