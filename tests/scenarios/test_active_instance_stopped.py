"""The active instance is stopped, politely and by force; the standby serves, and the stopped node comes back as the standby.

A polite stop tells the daemon, which hands over before its machine goes down. A forced one tells nobody: AWS's word that the
instance is stopped (R200) is proof of death, and ends a wait that would otherwise last the whole lease and its margins (R210).
"""

import threading
import time

from .conftest import TTL_S

STOP_MS = 100  # in `stopping`, as a forced stop is short of
PROVEN_S = TTL_S / 2  # from `stopped` to the acceptance; without proof a standby waits out more than one ttl


def _stopped_at(scene, force):
    """Stops the active instance; returns where the moment (CLOCK_MONOTONIC) will stand at which EC2 says `stopped`."""
    found = []

    def look():
        ec2, until = scene.cloud.client("ec2"), time.monotonic() + 60
        while not found and time.monotonic() < until:
            one = ec2.describe_instances(InstanceIds=[scene.network.nodes[scene.active].instance])["Reservations"][0]["Instances"][0]
            if one["State"]["Name"] == "stopped":
                found.append(time.monotonic())
            time.sleep(0.02)

    scene.cluster.stop_instance(scene.active, force=force)
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    return watcher, found


def _comes_back_as_the_standby(scene):
    assert set(scene.cluster.routes().values()) == {scene.standby}
    scene.calm()
    scene.whole_again()
    assert scene.cluster.status().active == scene.standby, "a node that returns is the standby; nothing moves back by itself"


def test_politely(scene):
    watcher, stopped = _stopped_at(scene, force=False)
    scene.taken_over(limit_s=3 * TTL_S)
    watcher.join(60)
    accepted = scene.steps()["accepted"]
    assert stopped and accepted < stopped[0], "handed over before it stopped"
    assert "active -> handing-over" in scene.logs()[scene.active], scene.logs()[scene.active]
    assert f"handed over to {scene.standby}" in scene.logs()[scene.active]
    assert scene.gap().seconds <= 1.0
    _comes_back_as_the_standby(scene)


def test_by_force(scene):
    scene.cloud.knobs(instance_stop_ms=STOP_MS)
    watcher, stopped = _stopped_at(scene, force=True)
    scene.taken_over(limit_s=3 * TTL_S)
    watcher.join(60)
    steps = scene.steps()
    assert "R200" in scene.rules() and "R210" not in scene.rules(), scene.history()
    assert stopped and steps["accepted"] - stopped[0] < PROVEN_S, f"accepted {steps['accepted'] - stopped[0]:.2f} s after `stopped`"
    assert scene.gap().seconds < TTL_S
    _comes_back_as_the_standby(scene)
