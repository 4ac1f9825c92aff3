"""One cloud, network and deployment for all stories; a healthy cluster for each, judged at its end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness import network as networks
from harness.clients import Clients
from harness.cloud import Cloud
from harness.cluster import Cluster
from harness.deployment import CLI, ZIPS, ClusterSpec, Deployment
from harness.judges import HeldUp
from harness.paths import BINARY, DIST
from harness.scene import Scene

DEPLOYMENT = "leasehold-test"
TTL_MS = 3000  # the product's default
TTL_S = TTL_MS / 1000
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    missing = []
    if os.geteuid() != 0:
        missing.append("root (network namespaces)")
    if not BINARY.exists() or not all((DIST / f"{one}.zip").exists() for one in ZIPS):
        missing.append("make build")
    if not CLI.exists() or not shutil.which("nginx"):
        missing.append("make setup")
    # An error, not a skip: a story that did not run has shown nothing.
    if missing and any(HERE in item.path.parents for item in items):
        raise pytest.UsageError(f"the scenarios need {', '.join(missing)}")


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """The stack, deployed once; two nodes and the clients running."""
    with Cloud(work=tmp_path_factory.mktemp("cloud")) as cloud:
        net = networks.create(cloud, more_route_tables=2)
        deployment = Deployment(cloud, DEPLOYMENT, [ClusterSpec("web", net, ttl_ms=TTL_MS, allow_force_stop=True)])
        deployment.bootstrap()
        deployment.deploy()
        cluster = Cluster(cloud, net, DEPLOYMENT)
        cluster.register(start=True)
        with Clients(cloud, net) as clients:
            scene = Scene(cloud, net, cluster, clients)
            yield scene
            scene.calm()


@pytest.fixture
def scene(stage):
    """A healthy cluster; after the story: never two nodes at once, and only the functions changed the network."""
    stage.prepare()
    yield stage
    stage.cloud.end_fault()  # what a fault still holds back must be let go before it is judged
    stage.judge()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _or_held_up(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    return (yield from _or_held_up(item))


def _or_held_up(item):
    """A failure on a machine that held its programs up is told as that; the Makefile has such a story told again."""
    scene = next((one for one in getattr(item, "funcargs", {}).values() if isinstance(one, Scene)), None)
    try:
        return (yield)
    except Exception as failure:
        said = scene.held_up() if scene else None
        if said is None or isinstance(failure, HeldUp):
            raise
        raise HeldUp(f"{said}; failed with {type(failure).__name__}: {failure}") from failure
