"""The real CDK app by the real CLI, with functions that only say yes."""

import json
import os

import pytest

from harness import network, stand_in_functions
from harness.cloud import Cloud
from harness.cluster import Cluster
from harness.deployment import CLI, ClusterSpec, Deployment, cluster_toml

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(not CLI.exists(), reason="needs the CDK CLI: make setup"),
]


def config(cloud: Cloud) -> dict:
    resources = cloud.client("cloudformation").get_template(StackName="demo")["TemplateBody"]["Resources"]
    return json.loads(next(one["Properties"]["Config"] for one in resources.values() if one["Type"] == "Custom::LeaseholdCluster"))


def test_deploy_invoke_and_deploy_again(tmp_path):
    zips = stand_in_functions.write(tmp_path / "zips")
    with Cloud(work=tmp_path) as cloud:
        net = network.create(cloud)
        spec = ClusterSpec("web", net, ttl_ms=3000)
        deployment = Deployment(cloud, "demo", [spec], assets=zips)
        deployment.bootstrap()
        deployment.deploy()
        print({step: round(seconds, 1) for step, seconds in deployment.took.items()})
        assert {one["ResourceType"] for one in deployment.stack_resources()} >= {"AWS::DynamoDB::Table", "AWS::Lambda::Function", "Custom::LeaseholdCluster"}
        cluster = Cluster(cloud, net, "demo")
        assert cluster.invoke("status")["event"] == {"action": "status", "cluster": "web"}
        assert cluster.row() is None and str(cluster.status()) == "no lease row"
        # The config item is the real function's work; that it was asked with the real ids is shown here.
        assert [node["instance"] for node in config(cloud)["nodes"]] == [node.instance for node in net.nodes.values()]
        assert config(cloud)["policy"] == {"ttl_ms": 3000}
        spec.ttl_ms = 2000
        deployment.deploy()
        assert config(cloud)["policy"] == {"ttl_ms": 2000}
        print({step: round(seconds, 1) for step, seconds in deployment.took.items()})


def test_cluster_toml_names_everything_that_is_needed():
    net = network.Network("vpc-1", {"a": network.Node("a", "i-1", "eni-1", "10.0.1.10", "subnet-1", "z")}, "subnet-9", ["rtb-1"], "10.99.0.10")
    text = cluster_toml("demo", [ClusterSpec("web", net, ttl_ms=2000, policy={"beat_ms": 500}, create_in=["rtb-1"])])
    for line in ('deployment = "demo"', "ttl_ms = 2000", "beat_ms = 500", 'eni = "eni-1"', 'route_tables = ["rtb-1"]', 'create_in = ["rtb-1"]', "priority = 1"):
        assert line in text.splitlines()
