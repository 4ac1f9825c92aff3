"""What is done to a database's cluster. Each disturbance is done, and everything that it took away is given back; whether the
cluster is whole again is for others to see."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness import postgres
from harness.scene import Scene

VOLUMES_PORT = 7401
TAKE_OVER_LIMIT_S = 90


@dataclass(frozen=True)
class Disturbance:
    name: str
    weight: int
    act: Callable[[Scene, random.Random], int]  # answers how many nodes' daemons and servers it killed


def kill_the_active(scene: Scene, dice: random.Random) -> int:
    scene.cluster.kill(scene.active, everything=True, hold=True)
    scene.taken_over(limit_s=TAKE_OVER_LIMIT_S)
    time.sleep(dice.uniform(0, 2))
    scene.cluster.start(scene.active)
    return 1


def kill_the_active_and_whoever_follows(scene: Scene, dice: random.Random) -> int:
    """The second dies alone with the whole data: until it is back, nobody serves."""
    scene.cluster.kill(scene.active, everything=True, hold=True)
    scene.taken_over(limit_s=TAKE_OVER_LIMIT_S)
    time.sleep(dice.uniform(0, 1))
    scene.cluster.kill(scene.standby, everything=True, hold=True)
    for node in _shuffled(scene, dice):
        scene.cluster.start(node)
        time.sleep(dice.uniform(0, 1))
    return 2


def kill_the_daemon_alone(scene: Scene, dice: random.Random) -> int:
    """It is back within its lease, or somebody else took over: either is right."""
    scene.cluster.kill(scene.active)
    return 1


def kill_the_standby(scene: Scene, dice: random.Random) -> int:
    scene.cluster.kill(scene.standby, everything=True, hold=True)
    time.sleep(dice.uniform(0, 3))
    scene.cluster.start(scene.standby)
    return 1


def kill_both(scene: Scene, dice: random.Random) -> int:
    for node in _shuffled(scene, dice):
        scene.cluster.kill(node, everything=True, hold=True)
        time.sleep(dice.choice([0, 0, dice.uniform(0, 4)]))
    for node in _shuffled(scene, dice):
        scene.cluster.start(node)
        time.sleep(dice.uniform(0, 1))
    return 2


def kill_during_a_resync(scene: Scene, dice: random.Random) -> int:
    """The copy's source or its target; a blank target half of the time."""
    scene.cluster.kill(scene.standby, everything=True, hold=True)
    scene.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1, TAKE_OVER_LIMIT_S)
    time.sleep(dice.uniform(0, 3))
    if dice.random() < 0.5:
        postgres.make_blank(scene.cluster.files[scene.standby].home)
    scene.cluster.start(scene.standby)
    time.sleep(dice.uniform(0, 3))
    scene.cluster.kill(dice.choice([scene.active, scene.standby]), everything=True, hold=True)
    time.sleep(dice.uniform(0, 2))
    for node in _shuffled(scene, dice):
        scene.cluster.start(node)
    return 2


def stop_the_active_instance(scene: Scene, dice: random.Random) -> int:
    scene.cluster.stop_instance(scene.active, force=dice.random() < 0.5)
    scene.taken_over(limit_s=TAKE_OVER_LIMIT_S)
    scene.bring_back(scene.active)
    return 0


def freeze_the_active_daemon(scene: Scene, dice: random.Random) -> int:
    """For less than a lease, or for long enough that the other takes over."""
    scene.cluster.kill(scene.active, signal="STOP")
    time.sleep(dice.choice([dice.uniform(0.2, 2), dice.uniform(4, 8)]))
    scene.cluster.kill(scene.active, signal="CONT")
    return 0


def cut_the_nodes_apart(scene: Scene, dice: random.Random) -> int:
    """From each other, or the active from everybody; all packets, or only those of their data; then, maybe, one is killed."""
    how = dice.choice(["peers", "data", "alone"])
    if how == "alone":
        scene.cloud.cut(scene.active, "*")
    else:
        scene.cloud.cut(scene.active, scene.standby, tcp_port=VOLUMES_PORT if how == "data" else None)
    time.sleep(dice.uniform(0.2, 6))
    if dice.random() < 0.5:
        scene.cloud.heal()
        return 0
    node = dice.choice([scene.active, scene.standby])
    scene.cluster.kill(node, everything=True, hold=True)
    time.sleep(dice.uniform(0, 2))
    scene.cloud.heal()
    time.sleep(dice.uniform(0, 2))
    scene.cluster.start(node)
    return 1


def switch_over(scene: Scene, dice: random.Random) -> int:
    """And in half of the cases somebody dies in the middle."""
    scene.cluster.invoke("switchover", to=scene.standby)
    if dice.random() < 0.5:
        return 0
    time.sleep(dice.uniform(0, 2))
    node = dice.choice([scene.active, scene.standby])
    scene.cluster.kill(node, everything=True, hold=True)
    time.sleep(dice.uniform(0, 2))
    scene.cluster.start(node)
    return 1


def replace_the_standby(scene: Scene, dice: random.Random) -> int:
    """By a blank one; then, at some moment of its first copy, the active dies."""
    scene.cluster.stop(scene.standby)
    postgres.make_blank(scene.cluster.files[scene.standby].home)
    scene.cluster.start(scene.standby)
    time.sleep(dice.uniform(0, 8))
    scene.cluster.kill(scene.active, everything=True, hold=True)
    time.sleep(dice.uniform(0, 4))
    scene.cluster.start(scene.active)
    return 1


def _shuffled(scene: Scene, dice: random.Random) -> list[str]:
    return dice.sample([scene.active, scene.standby], 2)


DISTURBANCES = [
    Disturbance("the active killed", 8, kill_the_active),
    Disturbance("the active killed, then who follows", 3, kill_the_active_and_whoever_follows),
    Disturbance("the daemon killed", 2, kill_the_daemon_alone),
    Disturbance("the standby killed", 2, kill_the_standby),
    Disturbance("both killed", 3, kill_both),
    Disturbance("killed during a resync", 3, kill_during_a_resync),
    Disturbance("the active's instance stopped", 1, stop_the_active_instance),
    Disturbance("the active's daemon frozen", 2, freeze_the_active_daemon),
    Disturbance("cut apart", 3, cut_the_nodes_apart),
    Disturbance("switched over", 2, switch_over),
    Disturbance("the standby replaced", 2, replace_the_standby),
]
