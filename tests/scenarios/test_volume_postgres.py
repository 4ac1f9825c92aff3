"""PostgreSQL on a replicated volume: whatever happens to the active node, every transaction that a client was told is
committed is there on the other one.
"""

import filecmp
import json
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness import network as networks
from harness import postgres
from harness.clients import Clients
from harness.cloud import Cloud
from harness.cluster import Cluster
from harness.deployment import ClusterSpec, Deployment
from harness.judges import assert_only_functions_changed_network, assert_single_service
from harness.paths import BINARY
from harness.scene import SETTLE_S, Scene

from .conftest import TTL_MS

DEPLOYMENT = "leasehold-data"
VOLUMES_PORT = 7401


@pytest.fixture(scope="module")
def data_stage():
    # Not pytest's folder: PostgreSQL runs as a user of its own, to whom that is closed.
    with tempfile.TemporaryDirectory(prefix="leasehold-", dir="/var/tmp") as folder, Cloud(work=Path(folder)) as cloud:
        net = networks.create(cloud)
        deployment = Deployment(cloud, DEPLOYMENT, [ClusterSpec("data", net, ttl_ms=TTL_MS)])
        deployment.bootstrap()
        deployment.deploy()
        cluster = Cluster(cloud, net, DEPLOYMENT, name="data", node_toml=postgres.NODE_TOML, forget_data=postgres.make_blank)
        for files in cluster.files.values():
            postgres.write(files.home, net.virtual_ip)
        cluster.register(start=True)
        with Clients(cloud, net) as clients:
            scene = Scene(cloud, net, cluster, clients)
            cluster.wait_serving(in_sync=2, limit_s=90)
            yield scene
            scene.calm()


@pytest.fixture
def data(data_stage):
    scene = data_stage.prepare()
    writer = postgres.Writer(scene.clients.client.namespace, scene.network.virtual_ip)
    _until("the server answers", lambda: _answers(writer))
    writer.start()
    scene.writer = writer
    yield scene
    writer.stop()
    time.sleep(SETTLE_S)
    assert_single_service(scene.clients.pinned_answers(scene.mark), scene.leaks)
    assert_only_functions_changed_network(scene.cloud.audit(scene.audit_mark), DEPLOYMENT)


def _answers(writer):
    try:
        return writer.query("SELECT 1", 10) == "1\n"
    except subprocess.SubprocessError:
        return False


def _until(what, holds, limit_s=60):
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, f"not within {limit_s} s: {what}"
        time.sleep(0.1)


def _writes(writer, count):
    before = len(writer.acknowledged)
    _until(f"{count} transactions", lambda: len(writer.acknowledged) >= before + count)


def _nothing_is_lost(scene):
    _writes(scene.writer, 20)
    scene.writer.stop()
    assert scene.writer.lost() == set()
    scene.whole_again(60)


def test_the_active_node_is_killed_over_and_over(data):
    for turn in range(3):
        _writes(data.writer, 50)
        data.cluster.kill(data.active, everything=True, hold=True)
        data.taken_over(limit_s=60)
        _writes(data.writer, 10)
        data.cluster.start(data.active)
        data.whole_again(60)
        data.active, data.standby, data.epoch = data.standby, data.active, data.cluster.status().epoch
    _nothing_is_lost(data)


def test_a_planned_switchover_there_and_back(data):
    for target in (data.standby, data.active):
        _writes(data.writer, 50)
        data.cluster.invoke("switchover", to=target)
        data.cluster.wait_serving(target, in_sync=2, limit_s=60)
    _nothing_is_lost(data)


def test_the_active_instance_is_stopped(data):
    _writes(data.writer, 50)
    data.cluster.stop_instance(data.active)
    data.taken_over(limit_s=60)
    _writes(data.writer, 50)
    data.bring_back(data.active)
    data.whole_again(90)
    _nothing_is_lost(data)


def test_the_active_daemon_stands_still(data):
    """And the volume with it. When it goes on, what its server had under way ends in an error, and nobody is told that it was
    done."""
    data.expect_in_logs("stood still")
    _writes(data.writer, 50)
    assert data.cluster.kill(data.active, signal="STOP")
    data.taken_over(limit_s=60)
    _writes(data.writer, 50)
    data.cluster.kill(data.active, signal="CONT")
    data.whole_again(90)
    _nothing_is_lost(data)


@pytest.mark.parametrize("port", [None, VOLUMES_PORT], ids=["all", "only their data"])
def test_the_nodes_cannot_reach_each_other(data, port):
    """The holder goes on without the standby, which is brought up to date when the link is back."""
    _writes(data.writer, 50)
    data.cloud.cut(data.active, data.standby, tcp_port=port)
    data.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    _writes(data.writer, 50)
    assert (data.cluster.status().active, data.cluster.status().epoch) == (data.active, data.epoch)
    data.cloud.heal()
    data.cluster.wait_until("both in sync", lambda status: status.in_sync == 2)
    data.cluster.kill(data.active, everything=True, hold=True)
    data.taken_over(limit_s=60)
    data.cluster.start(data.active)
    data.whole_again(90)
    _nothing_is_lost(data)


def test_a_standby_is_replaced_by_a_blank_one(data):
    """What is on it never counts before it has everything."""
    _writes(data.writer, 50)
    data.cluster.stop(data.standby)
    data.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    missing = lambda: [peer for peer in _volumes(data, data.active)["peers"] if peer["state"] == "away" and peer["behind_bytes"] > 0]  # noqa: E731
    _until("the active node's operator sees what the standby misses", missing, 10)
    postgres.make_blank(data.cluster.files[data.standby].home)
    data.cluster.start(data.standby)
    data.cluster.wait_until("both in sync", lambda status: status.in_sync == 2, 90)
    _until("he sees it in step", lambda: "in step" in [peer["state"] for peer in _volumes(data, data.active)["peers"]], 10)
    assert _volumes(data, data.standby)["follows"] and f"{data.standby:<10} in step" in _told(data, data.active)
    data.cluster.kill(data.active, everything=True, hold=True)
    data.taken_over(limit_s=60)
    data.cluster.start(data.active)
    data.whole_again(90)
    _nothing_is_lost(data)


def _volumes(data, node):
    return json.loads(_told(data, node, "--json"))


def _told(data, node, *options):
    """What `leasehold volume status` says there."""
    socket = str(data.cluster.files[node].admin_socket)
    return data.cluster.execute(node, str(BINARY), "volume", "status", "--socket", socket, *options)["stdout"]


@pytest.mark.parametrize("first", ["the active node", "the standby"])
def test_both_are_killed_and_start_in_either_order(data, first):
    _writes(data.writer, 50)
    for node in (data.active, data.standby):
        data.cluster.kill(node, everything=True, hold=True)
    order = [data.active, data.standby]
    for node in order if first == "the active node" else reversed(order):
        data.cluster.start(node)
        time.sleep(1)
    data.whole_again(90)
    _nothing_is_lost(data)


def test_both_replicas_are_equal_once_nobody_writes(data):
    _writes(data.writer, 50)
    data.writer.stop()
    assert data.writer.lost() == set()
    images = [files.home / "volume.img" for files in data.cluster.files.values()]
    # The server writes now and then by itself, the last write may be on its way to one of them.
    _until("the replicas are equal", lambda: _are_equal(*images))


def _are_equal(one, other):
    filecmp.clear_cache()
    return filecmp.cmp(one, other, shallow=False)
