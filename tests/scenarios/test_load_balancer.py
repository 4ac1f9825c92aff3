"""Clients come by a load balancer, to the nodes' own addresses: the active node alone answers its health checks and its service's port.

The nodes' servers listen on all addresses, and the load balancer sends to every target while none is healthy: what keeps a standby, and
an old active node whose daemon stands still, from answering is the kernel, which closes the ports by itself. Clients that ask each
node's own address all the time judge that never two answer.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import network as networks
from harness.answers import longest_gap
from harness.balancer import INTERVAL_S, THRESHOLD, Balancer
from harness.clients import Client, Clients
from harness.cloud import Cloud
from harness.cluster import Cluster
from harness.deployment import ClusterSpec, Deployment
from harness.paths import BINARY
from harness.scene import Scene

from .conftest import TTL_MS, TTL_S
from .test_workload_dies import KILL, NOTICED_S, TOLD

SERVICE, HEALTH = 80, 7402
GAP_S = 20  # promised, by checks each 5 s of which two decide
DETECTS_S = (THRESHOLD + 1) * INTERVAL_S + 2


class Balanced(Clients):
    """The client asks the load balancer; one prober for each node asks that node's own address."""

    def __init__(self, cloud: Cloud, network: networks.Network, balancer: Balancer):
        super().__init__(cloud, network)
        self.client.url = balancer.url
        for name, prober in self.pinned.items():
            prober.url = f"http://{network.nodes[name].address}/"


@pytest.fixture(scope="module", params=["tcp", "http"])
def balanced(request):
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="leasehold-", dir="/var/tmp")))
        cloud = ending.enter_context(Cloud(work=folder))
        net = networks.create(cloud)
        deployment = Deployment(cloud, "leasehold-nlb", [ClusterSpec("web", net, ttl_ms=TTL_MS, service_ports=[SERVICE], health_port=HEALTH)])
        deployment.bootstrap()
        deployment.deploy()
        cluster = Cluster(cloud, net, "leasehold-nlb")
        cluster.register(start=True)
        balancer = Balancer(cloud, net, SERVICE, HEALTH, http=request.param == "http")
        ending.callback(balancer.stop)
        clients = ending.enter_context(Balanced(cloud, net, balancer))
        scene = Scene(cloud, net, cluster, clients)
        scene.balancer = balancer
        yield scene
        scene.calm()


@pytest.fixture
def scene(balanced):
    balanced.prepare()
    balanced.balancer.wait_healthy(balanced.active, limit_s=DETECTS_S)
    balanced.mark = time.monotonic()
    yield balanced
    balanced.cloud.end_fault()
    balanced.judge()


def _refused(scene: Scene, node: str, port: int) -> bool:
    """By the host of the balancer: connection refused, at once."""
    address = scene.network.nodes[node].address
    said = scene.cloud.plane("POST", "machines/balancer/exec", {"command": ["curl", "-s", "-o", "/dev/null", "--max-time", "2", f"http://{address}:{port}/"]})
    return said["status"] == 7


def _answered_again(scene: Scene, by: str) -> float:
    """The client's longest time without an answer, once `by` answers it."""
    scene.clients.client.wait_for(by, since=scene.mark, limit_s=GAP_S + 10)
    gap = longest_gap(scene.clients.client.answers(scene.mark), scene.mark)
    assert gap is not None
    print(f"the client's longest gap: {gap.seconds:.1f} s")
    return gap.seconds


def _tells(scene: Scene, node: str) -> tuple[str, str]:
    """What Prometheus and an operator read of its ports."""
    page = scene.cluster.execute(node, "curl", "-s", "http://127.0.0.1:9400/metrics")["stdout"]
    metrics = " ".join(line for line in page.splitlines() if line.startswith("leasehold_ports_"))
    screen = scene.cluster.execute(node, str(BINARY), "status", "--socket", str(scene.cluster.files[node].admin_socket))["stdout"]
    return metrics, next(line.split(maxsplit=1)[1] for line in screen.splitlines() if line.strip().startswith("ports "))


def test_who_looks_is_told_which_ports_are_open(scene):
    told = "leasehold_ports_open {0}.0 leasehold_ports_healthy {0}.0 leasehold_ports_problem 0.0"
    assert _tells(scene, scene.active) == (told.format(1), "80 open; health checks on 7402 answered")
    assert _tells(scene, scene.standby) == (told.format(0), "80 refused; health checks on 7402 refused")


def test_killed(scene):
    assert _refused(scene, scene.standby, SERVICE) and _refused(scene, scene.standby, HEALTH)
    assert not _refused(scene, scene.active, HEALTH)
    scene.expect_in_logs("stood still")
    scene.cluster.power_cut(scene.active)
    scene.cluster.wait_serving(scene.standby, above_epoch=scene.epoch)
    assert _answered_again(scene, scene.standby) <= GAP_S
    scene.cluster.power_back(scene.active)
    scene.whole_again()
    assert _refused(scene, scene.active, SERVICE), "the old active node is back, as standby"


def test_the_daemon_alone_stands_still(scene):
    """Its server lives on and listens; the kernel closes its ports before another node may serve."""
    scene.expect_in_logs("stood still")
    assert scene.cluster.kill(scene.active, signal="STOP"), "nothing was stopped"
    stopped = time.monotonic()
    scene.cluster.wait_serving(scene.standby, above_epoch=scene.epoch)
    time.sleep(1.2)
    old = [one for one in scene.clients.pinned[scene.active].answers(stopped) if one.ok]
    assert max(one.sent for one in old) - stopped <= TTL_S, "the ports outlived the lease"
    assert _refused(scene, scene.active, SERVICE) and _refused(scene, scene.active, HEALTH)
    assert _answered_again(scene, scene.standby) <= GAP_S
    scene.cluster.kill(scene.active, signal="CONT")
    scene.whole_again()


def test_switched_over_and_back(scene):
    for target in (scene.standby, scene.active):
        scene.mark = time.monotonic()
        scene.cluster.invoke("switchover", to=target)
        scene.cluster.wait_serving(target)
        assert _answered_again(scene, target) <= GAP_S
        scene.whole_again()
        scene.balancer.wait_healthy(target, limit_s=DETECTS_S)


def test_no_health_check_is_answered_while_a_resource_is_not_well(scene):
    """nginx is gone: the node hands over, and health checks are the other node's to answer."""
    scene.expect_in_logs(also=TOLD)
    home = str(scene.cluster.files[scene.active].home)
    done = scene.cluster.execute(scene.active, "/bin/sh", "-c", KILL, home)
    assert done["status"] == 0, done
    scene.cluster.wait_serving(scene.standby, above_epoch=scene.epoch)
    assert _refused(scene, scene.active, HEALTH) and not _refused(scene, scene.standby, HEALTH)
    assert _answered_again(scene, scene.standby) <= NOTICED_S + GAP_S
    scene.whole_again()
