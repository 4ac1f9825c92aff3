"""PostgreSQL on a replicated volume: whatever happens to the active node, every transaction that a client was told is
committed is there on the other one.
"""

import json
import re
import time

import pytest

from harness import postgres
from harness.paths import BINARY

from .database_stage import database_stage, nothing_is_lost, watched
from .test_operator_looks import METRICS, METRICS_URL

DEPLOYMENT = "leasehold-data"
VOLUMES_PORT = 7401


@pytest.fixture(scope="module")
def data_stage():
    with database_stage(DEPLOYMENT) as scene:
        yield scene


@pytest.fixture
def data(data_stage):
    with watched(data_stage) as scene:
        yield scene


def _until(what, holds, limit_s):
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, f"not within {limit_s} s: {what}"
        time.sleep(0.1)


def test_the_active_node_is_killed_over_and_over(data):
    for turn in range(3):
        data.users.wait_for_more(50)
        data.cluster.kill(data.active, everything=True, hold=True)
        data.taken_over(limit_s=60)
        data.users.wait_for_more(10)
        data.cluster.start(data.active)
        data.whole_again(60)
        data.active, data.standby, data.epoch = data.standby, data.active, data.cluster.status().epoch
    nothing_is_lost(data)


def test_a_planned_switchover_there_and_back(data):
    for target in (data.standby, data.active):
        data.users.wait_for_more(50)
        answer = data.cluster.invoke("switchover", to=target)
        assert answer["outcome"] == "completed", answer
        data.cluster.wait_serving(target, in_sync=2, limit_s=60)
    nothing_is_lost(data)


def test_the_active_instance_is_stopped(data):
    data.users.wait_for_more(50)
    data.cluster.stop_instance(data.active)
    data.taken_over(limit_s=60)
    data.users.wait_for_more(50)
    data.bring_back(data.active)
    data.whole_again(90)
    nothing_is_lost(data)


def test_the_active_daemon_stands_still(data):
    """And the volume with it. When it goes on, what its server had under way ends in an error, and nobody is told that it was
    done."""
    data.expect_in_logs("stood still")
    data.users.wait_for_more(50)
    assert data.cluster.kill(data.active, signal="STOP")
    data.taken_over(limit_s=60)
    data.users.wait_for_more(50)
    data.cluster.kill(data.active, signal="CONT")
    data.whole_again(90)
    nothing_is_lost(data)


@pytest.mark.parametrize("port", [None, VOLUMES_PORT], ids=["all", "only their data"])
def test_the_nodes_cannot_reach_each_other(data, port):
    """The holder goes on without the standby, which is brought up to date when the link is back."""
    data.users.wait_for_more(50)
    data.cloud.cut(data.active, data.standby, tcp_port=port)
    data.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    data.users.wait_for_more(50)
    assert (data.cluster.status().active, data.cluster.status().epoch) == (data.active, data.epoch)
    data.cloud.heal()
    data.cluster.wait_until("both in sync", lambda status: status.in_sync == 2)
    data.cluster.kill(data.active, everything=True, hold=True)
    data.taken_over(limit_s=60)
    data.cluster.start(data.active)
    data.whole_again(90)
    nothing_is_lost(data)


def test_a_standby_is_replaced_by_a_blank_one(data):
    """What is on it never counts before it has everything."""
    data.users.wait_for_more(50)
    data.cluster.stop(data.standby)
    data.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    missing = lambda: [peer for peer in _volumes(data, data.active)["peers"] if peer["state"] == "away" and peer["behind_bytes"] > 0]  # noqa: E731
    _until("the active node's operator sees what the standby misses", missing, 10)
    postgres.make_blank(data.cluster.files[data.standby].home)
    data.cluster.start(data.standby)
    data.cluster.wait_until("both in sync", lambda status: status.in_sync == 2, 90)
    _until("he sees it in step", lambda: "in step" in [peer["state"] for peer in _volumes(data, data.active)["peers"]], 10)
    _prometheus_finds_the_volumes(data)
    assert _volumes(data, data.standby)["follows"] and f"{data.standby:<10} in step" in _told(data, data.active)
    data.cluster.kill(data.active, everything=True, hold=True)
    data.taken_over(limit_s=60)
    data.cluster.start(data.active)
    data.whole_again(90)
    nothing_is_lost(data)


def _prometheus_finds_the_volumes(data):
    names = [name for name in re.findall(r'page\.gauges?\(\s*"(\w+)"', METRICS.read_text()) if name.startswith("volumes_")]
    assert len(names) > 4, names
    page = data.cluster.execute(data.active, "curl", "--silent", "--fail", METRICS_URL)["stdout"]
    assert [name for name in names if f"# TYPE leasehold_{name} gauge\n" not in page] == [], page
    assert re.search(r'^leasehold_volumes_peer_state{replica="[^"]+",state="in step"} 1\.0$', page, re.MULTILINE), page


def _volumes(data, node):
    return json.loads(_told(data, node, "--json"))


def _told(data, node, *options):
    """What `leasehold volume status` says there."""
    socket = str(data.cluster.files[node].admin_socket)
    return data.cluster.execute(node, str(BINARY), "volume", "status", "--socket", socket, *options)["stdout"]


@pytest.mark.parametrize("first", ["the active node", "the standby"])
def test_both_are_killed_and_start_in_either_order(data, first):
    data.users.wait_for_more(50)
    for node in (data.active, data.standby):
        data.cluster.kill(node, everything=True, hold=True)
    order = [data.active, data.standby]
    for node in order if first == "the active node" else reversed(order):
        data.cluster.start(node)
        time.sleep(1)
    data.whole_again(90)
    nothing_is_lost(data)
