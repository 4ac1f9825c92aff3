"""Replicas that follow asynchronously, `[volumes] follow = "async"`: nobody waits for them, how far they are behind is shown, and what
is lost is lost only where somebody has allowed it: what is served then is everything up to some moment, and nothing behind it.
"""

import json
import time

import pytest

from harness import database, volumes

from .conftest import TTL_S
from .volume_stage import count, volume_stage, watched

VOLUMES_PORT = 7401
LAG_LIMIT_MS = 10_000  # of the cluster in which a loss is allowed


@pytest.fixture(scope="module")
def far_stage():
    with volume_stage("leasehold-async", follow="async") as scene:
        yield scene


@pytest.fixture
def far(far_stage):
    with watched(far_stage) as scene:
        yield scene


@pytest.fixture(scope="module")
def lossy_stage():
    with volume_stage("leasehold-lossy", follow="async", policy={"lossy_lag_limit_ms": LAG_LIMIT_MS}) as scene:
        yield scene


@pytest.fixture
def lossy(lossy_stage):
    with watched(lossy_stage) as scene:
        yield scene


def even(scene, counter):
    """Waits until the follower has what was acknowledged by now; how much that is."""
    counted, since = counter.acknowledged, time.monotonic()
    volumes.wait("the follower has all", lambda: volumes.is_even(scene.cluster, scene.active, since))
    return counted


def blocked(scene):
    """Why nobody was nominated, in each decision's words."""
    return [text for text in map(json.dumps, scene.history()) if '"R230"' in text]


@pytest.mark.parametrize("port", [None, VOLUMES_PORT], ids=["all", "only their data"])
def test_nothing_waits_for_a_follower_that_cannot_be_reached_and_its_lag_is_shown(far, port):
    counter = count(far, far.active)
    counter.wait_for_more(100)
    even(far, counter)
    screen = volumes.ask(far.cluster, far.active, "status")  # exit code 0: to follow is no failure
    assert f"{far.standby} following (async)" in screen and "NOT PROTECTED" not in screen, screen
    assert f"{far.standby} follows asynchronously and takes over by force only" in screen, screen
    began = time.monotonic()
    far.cloud.cut(far.active, far.standby, tcp_port=port)
    time.sleep(3 * TTL_S)
    # A member that is cut off holds writes up for peer_silence_ms at the least, and until the row is written.
    assert counter.gap(began) < 2 / 3 * TTL_S, f"a write waited for {counter.gap(began):.2f} s"
    screen = volumes.ask(far.cluster, far.active, "status", code=2)
    assert f"{far.standby} away (async)" in screen and "!! NOT PROTECTED" in screen, screen
    told = volumes.peer(far.cluster, far.active)
    assert told["lag_ms"] > TTL_S * 1_000 and told["behind_bytes"] > 100 * volumes.BLOCK, told
    for node, name in ((far.active, "volumes_peer_lag_seconds"), (far.standby, "volumes_lag_seconds")):
        assert volumes.metric(far.cluster, node, name)[0] > TTL_S, (node, name)
    far.no_takeover(0.5)
    far.cloud.heal()
    even(far, counter)
    volumes.wait("the lag is gone", lambda: volumes.metric(far.cluster, far.active, "volumes_peer_lag_seconds")[0] < 1)
    counter.stop()
    assert database.differing([volumes.image(far.cluster, node) for node in (far.active, far.standby)], 20) == []


def test_nobody_takes_over_from_a_killed_holder_and_the_decision_says_why(far):
    counter = count(far, far.active)
    counter.wait_for_more(100)
    far.cluster.kill(far.active, everything=True, hold=True)
    volumes.wait("the decision", lambda: blocked(far), 20)
    time.sleep(2 * TTL_S)
    row = far.cluster.row()
    assert (row["holder"]["node"], row["epoch"], row.get("nominee")) == (far.active, far.epoch, None), row
    why = blocked(far)[-1].replace('\\"', '"')
    for part in (f'{far.standby} has [volumes] follow = "async" and is never in sync, by design', "ms behind at the most",
                 "without lossy_lag_limit_ms", f"bring {far.active} back, which loses nothing", '"accept_data_loss":true'):  # fmt: skip
        assert part in why, (part, why)
    # As it says: nothing is lost then.
    told = counter.stop()
    far.cluster.start(far.active)
    far.cluster.wait_serving(far.active, above_epoch=far.epoch)
    assert volumes.prefix(volumes.image(far.cluster, far.active), counter) >= told > 0
    volumes.wait("it is followed", lambda: volumes.peer(far.cluster, far.active)["state"] == "following")


def test_a_forced_failover_serves_a_prefix_and_the_old_holders_side_is_kept_until_somebody_decides(far):
    counter = count(far, far.active)
    counter.wait_for_more(200)
    there = even(far, counter)
    far.cloud.cut(far.active, far.standby, tcp_port=VOLUMES_PORT)
    counter.wait_for_more(200)
    far.cluster.stop_instance(far.active, force=True)
    far.cloud.client("ec2").get_waiter("instance_stopped").wait(
        InstanceIds=[far.network.nodes[far.active].instance], WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    told = counter.stop()
    time.sleep(2 * TTL_S)
    assert far.cluster.status().holder == far.active, "a follower took over by itself"
    refusal = json.dumps(far.cluster.invoke("failover", to=far.standby)["error"])
    assert "accept_data_loss" in refusal and "follows asynchronously" in refusal and "ms behind" in refusal, refusal
    answer = far.cluster.invoke("failover", to=far.standby, accept_data_loss=True, reason="its data centre is gone")
    assert (answer["outcome"], answer["rule"]) == ("completed", "R410"), answer
    far.taken_over()
    kept = volumes.prefix(volumes.image(far.cluster, far.standby), counter)
    assert there <= kept < told, (there, kept, told)
    # The old holder comes back, with what nobody else has.
    far.cloud.heal()
    alone = volumes.image(far.cluster, far.active).read_bytes()
    far.bring_back(far.active)
    volumes.wait("two histories are found", lambda: volumes.peer(far.cluster, far.standby)["state"] == "diverged")
    screen = volumes.ask(far.cluster, far.standby, "status", code=2)
    assert f"!! {far.active} and this node both hold writes that the other never had" in screen, screen
    later = count(far, far.standby)
    later.wait_for_more(100)
    later.stop()
    assert far.cluster.status().in_sync == 1
    assert volumes.image(far.cluster, far.active).read_bytes() == alone, "what only the old holder has must stay as it is"
    assert volumes.peer(far.cluster, far.standby)["state"] == "diverged"
    # Somebody decides: what only it has is copied aside, and it is resynced.
    far.cluster.stop(far.active)
    aside = far.cluster.files[far.active].home / "aside"
    volumes.offline(far.cluster, far.active, "discard", "--aside", str(aside), "--yes")
    copied = aside.read_bytes()
    assert copied[(kept + 1) * volumes.BLOCK : (told + 1) * volumes.BLOCK] == alone[(kept + 1) * volumes.BLOCK : (told + 1) * volumes.BLOCK]
    far.cluster.start(far.active)
    volumes.wait("it follows", lambda: volumes.peer(far.cluster, far.standby)["state"] == "following")
    assert database.differing([volumes.image(far.cluster, node) for node in (far.active, far.standby)], 20) == []


def test_where_a_loss_is_allowed_a_follower_that_lags_little_takes_over_by_itself(lossy):
    counter = count(lossy, lossy.active)
    counter.wait_for_more(200)
    there = even(lossy, counter)
    screen = volumes.ask(lossy.cluster, lossy.active, "status")
    assert f"{lossy.standby} takes over in about" in screen and "10.0 s behind then; what it lacks is lost" in screen, screen
    counter.wait_for_more(100)
    lossy.cluster.kill(lossy.active, everything=True, hold=True)
    lossy.taken_over(limit_s=20)
    assert "R240" in lossy.rules(), lossy.rules()
    told = counter.stop()
    # The write that was under way may be there without its answer.
    assert there <= volumes.prefix(volumes.image(lossy.cluster, lossy.standby), counter) <= told + 1
    lossy.cluster.start(lossy.active)
    volumes.wait("two histories are found", lambda: volumes.peer(lossy.cluster, lossy.standby)["state"] == "diverged")


def test_where_a_loss_is_allowed_nobody_takes_over_who_lags_more(lossy):
    counter = count(lossy, lossy.active)
    counter.wait_for_more(100)
    even(lossy, counter)
    lossy.cloud.cut(lossy.active, lossy.standby, tcp_port=VOLUMES_PORT)
    time.sleep(LAG_LIMIT_MS / 1_000 + 1)
    lossy.cluster.kill(lossy.active, everything=True, hold=True)
    volumes.wait("the decision", lambda: blocked(lossy), 20)
    time.sleep(2 * TTL_S)
    assert (lossy.cluster.status().holder, lossy.cluster.status().epoch) == (lossy.active, lossy.epoch)
    why = blocked(lossy)[-1]
    assert "ms behind at the most, and lossy_lag_limit_ms allows 10000 ms" in why, why
    told = counter.stop()
    lossy.cloud.heal()
    lossy.cluster.start(lossy.active)
    lossy.cluster.wait_serving(lossy.active, above_epoch=lossy.epoch)
    assert volumes.prefix(volumes.image(lossy.cluster, lossy.active), counter) >= told
