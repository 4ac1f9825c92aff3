"""A stage with a database on it: a cloud of its own, PostgreSQL on a replicated volume, and its users."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import database, postgres
from harness import network as networks
from harness.clients import Clients
from harness.cloud import Cloud
from harness.deployment import ClusterSpec, Deployment
from harness.disks import Disk
from harness.judges import assert_only_functions_changed_network, assert_single_service
from harness.scene import SETTLE_S, Scene

from .conftest import TTL_MS

NODES = ("a", "b")


@contextmanager
def database_stage(deployment_name: str, breakable: bool = False) -> Iterator[Scene]:
    """`breakable`: the replicas lie on disks that fail when a story says so: the scene's `disks`, by node."""
    with ExitStack() as ending:
        # Not pytest's folder: PostgreSQL runs as a user of its own, to whom that is closed.
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="leasehold-", dir="/var/tmp")))
        disks: dict[str, Disk] = {}
        if breakable:  # before there are machines: these see what is mounted when they start
            for node in NODES:
                disks[node] = Disk(folder / "disks" / node, postgres.VOLUME_BYTES)
                ending.callback(disks[node].close)
        cloud = ending.enter_context(Cloud(work=folder))
        net = networks.create(cloud, NODES)
        deployment = Deployment(cloud, deployment_name, [ClusterSpec("data", net, ttl_ms=TTL_MS)])
        deployment.bootstrap()
        deployment.deploy()
        cluster = postgres.cluster(cloud, net, deployment_name, "data", {node: disk.file for node, disk in disks.items()})
        cluster.register(start=True)
        clients = ending.enter_context(Clients(cloud, net))
        scene = Scene(cloud, net, cluster, clients)
        scene.disks = disks
        cluster.wait_serving(in_sync=2, limit_s=90)
        yield scene
        for disk in disks.values():
            disk.heal()
        scene.calm()


@contextmanager
def watched(stage: Scene) -> Iterator[Scene]:
    """A story's scene, with `users` at work; after it: never two nodes at once, and only the functions changed the network."""
    for disk in stage.disks.values():
        disk.heal()
    scene = stage.prepare()
    scene.users = database.Users(database.Server(scene.clients.client.namespace, scene.network.virtual_ip)).start()
    try:
        yield scene
    finally:
        scene.users.stop()
    time.sleep(SETTLE_S)
    assert_single_service(scene.clients.pinned_answers(scene.mark), scene.leaks)
    assert_only_functions_changed_network(scene.cloud.audit(scene.audit_mark), scene.cluster.deployment)


def nothing_is_lost(scene: Scene) -> None:
    """Each transaction that was acknowledged is there, whole, and both replicas are equal."""
    scene.users.wait_for_more(20)
    scene.users.stop()
    scene.whole_again(60)
    assert scene.users.verdict(postgres.images(scene.cluster)).problems == []
