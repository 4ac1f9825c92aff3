"""A stage with a bare replicated volume on it: a cloud of its own, and clients that write to the volume itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import network as networks
from harness import volumes
from harness.clients import Clients
from harness.cloud import Cloud
from harness.deployment import ClusterSpec, Deployment
from harness.judges import assert_only_functions_changed_network, assert_single_service
from harness.scene import SETTLE_S, Scene

from .conftest import TTL_MS


@contextmanager
def volume_stage(deployment_name: str, follow: str = "sync", policy: dict[str, int] | None = None) -> Iterator[Scene]:
    """`follow`: of both nodes' [volumes]. `policy`: of the cluster, beside its ttl."""
    with ExitStack() as ending:
        # Not pytest's folder: a UNIX socket's path has 107 bytes at most.
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="leasehold-", dir="/var/tmp")))
        cloud = ending.enter_context(Cloud(work=folder))
        net = networks.create(cloud, ("a", "b"))
        deployment = Deployment(cloud, deployment_name, [ClusterSpec("data", net, ttl_ms=TTL_MS, policy=policy or {})])
        deployment.bootstrap()
        deployment.deploy()
        cluster = volumes.cluster(cloud, net, deployment_name, "data", follow)
        cluster.register(start=True)
        clients = ending.enter_context(Clients(cloud, net))
        scene = Scene(cloud, net, cluster, clients, members=1 if follow == "async" else None)
        cluster.wait_serving(in_sync=scene.members or 2, limit_s=60)
        yield scene
        scene.calm()


@contextmanager
def watched(stage: Scene) -> Iterator[Scene]:
    """A story's scene, both replicas with everything; after it: never two nodes at once, and only the functions changed the network."""
    scene = stage.prepare()
    if not _is_followed(scene):
        scene.start_anew()
        scene.prepare()
        assert _is_followed(scene), f"a fresh replica does not get whole: {volumes.status(scene.cluster, scene.active)}"
    counters: list[volumes.Counter] = []
    scene.counters = counters  # a story's own, ended with it
    try:
        yield scene
    finally:
        for counter in counters:
            counter.stop()
    time.sleep(SETTLE_S)
    assert_single_service(scene.clients.pinned_answers(scene.mark), scene.leaks)
    assert_only_functions_changed_network(scene.cloud.audit(scene.audit_mark), scene.cluster.deployment)


def count(scene: Scene, node: str) -> volumes.Counter:
    """A client that writes numbers on the node that leads."""
    counter = volumes.Counter(scene.cluster, node)
    scene.counters.append(counter)
    return counter


def _is_followed(scene: Scene, limit_s: float = 20) -> bool:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if volumes.peer(scene.cluster, scene.active)["state"] in ("in step", "following"):
            return True
        time.sleep(0.2)
    return False
