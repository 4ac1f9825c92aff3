"""The product's own CDK app, deployed into the local cloud by the ordinary CDK CLI from a generated cluster.toml.

The fast path caches `cdk synth` (seconds of TypeScript): the app is synthesized once with stand-in ids, and each
deployment gets a copy of the assembly with the real ids. What deploys is the CLI in both cases.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cloud import ACCOUNT, REGION, Cloud
from .network import Network
from .paths import CACHE, CDK, DIST

CLI = CDK / "node_modules" / ".bin" / "cdk"
COMMAND_LIMIT_S = 300
ZIPS = ("failover", "watch", "configure")


class DeploymentError(Exception):
    pass


@dataclass
class ClusterSpec:
    """One [[cluster]] of cluster.toml."""

    name: str
    network: Network
    ttl_ms: int | None = None
    policy: dict[str, int] = field(default_factory=dict)
    create_in: list[str] = field(default_factory=list)
    priorities: dict[str, int] = field(default_factory=dict)
    allow_force_stop: bool = False
    service_ports: list[int] = field(default_factory=list)
    health_port: int | None = None


def cluster_toml(deployment: str, clusters: list[ClusterSpec]) -> str:
    lines = [f'deployment = "{deployment}"', "", "[table]", "deletion_protection = false"]
    for cluster in clusters:
        lines += ["", "[[cluster]]", f'name = "{cluster.name}"']
        if cluster.ttl_ms is not None:
            lines.append(f"ttl_ms = {cluster.ttl_ms}")
        if cluster.allow_force_stop:
            lines.append("allow_force_stop = true")
        if cluster.policy:
            lines += ["[cluster.policy]", *(f"{key} = {value}" for key, value in cluster.policy.items())]
        if cluster.service_ports:
            lines += ["[cluster.ports]", f"service = {json.dumps(cluster.service_ports)}"]
            lines += [f"health = {cluster.health_port}"] if cluster.health_port else []
        for index, node in enumerate(cluster.network.nodes.values()):
            lines += ["[[cluster.node]]", f'name = "{node.name}"', f'instance = "{node.instance}"', f'eni = "{node.eni}"',
                      f"priority = {cluster.priorities.get(node.name, index + 1)}"]  # fmt: skip
        lines += ["[[cluster.virtual_ip]]", f'address = "{cluster.network.virtual_ip}"', f'vpc = "{cluster.network.vpc}"',
                  f"route_tables = {json.dumps(cluster.network.route_tables)}"]  # fmt: skip
        if cluster.create_in:
            lines.append(f"create_in = {json.dumps(cluster.create_in)}")
    return "\n".join(lines) + "\n"


class Deployment:
    def __init__(self, cloud: Cloud, name: str, clusters: list[ClusterSpec], assets: Path = DIST, fast: bool = True):
        self.cloud = cloud
        self.name = name
        self.clusters = clusters
        self.assets = assets
        self.fast = fast
        self.directory = cloud.work / f"deploy-{name}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = self.directory / "cluster.toml"
        self.took: dict[str, float] = {}  # seconds per step
        self.log = self.directory / "cdk.log"

    def bootstrap(self) -> None:
        """Once per cloud: what the CLI itself needs in an account."""
        # From the assembly's folder, so that the CLI does not run the app for a command that needs none.
        self._cdk("bootstrap", ["bootstrap", f"aws://{ACCOUNT}/{REGION}"], self.directory)

    def deploy(self) -> None:
        """Also a second time, after a change of `clusters`."""
        self.config.write_text(cluster_toml(self.name, self.clusters))
        missing = [f"{zip_name}.zip" for zip_name in ZIPS if not (self.assets / f"{zip_name}.zip").exists()]
        if missing:
            raise DeploymentError(f"{', '.join(missing)} not found in {self.assets}; build the functions first: make build")
        began = time.monotonic()
        assembly = self._cached_assembly() if self.fast else self._synth(self.config, self.directory / "cdk.out")
        self.took["synth"] = time.monotonic() - began
        self._cdk("deploy", ["deploy", self.name, "--app", str(assembly), "--require-approval", "never", "--progress", "events"], self.directory)
        self._check_complete()
        self._give_profiles()

    def stack_resources(self) -> list[dict[str, Any]]:
        return self.cloud.client("cloudformation").describe_stack_resources(StackName=self.name)["StackResources"]

    def _check_complete(self) -> None:
        """The CLI's tick alone is not believed."""
        states = {one["LogicalResourceId"]: one["ResourceStatus"] for one in self.stack_resources()}
        bad = {name: state for name, state in states.items() if not state.endswith("_COMPLETE") or "ROLLBACK" in state or "DELETE" in state}
        if bad or not states:
            raise DeploymentError(f"stack {self.name} is deployed but not complete: {bad or 'no resources'}; {self.log}")

    def _give_profiles(self) -> None:
        """The instances were there before the stack that makes their profiles, as they are at a user's."""
        ec2 = self.cloud.client("ec2")
        have = {one["InstanceId"]: one["IamInstanceProfile"]["Arn"] for one in ec2.describe_iam_instance_profile_associations()["IamInstanceProfileAssociations"]}
        for cluster in self.clusters:
            for node in cluster.network.nodes.values():
                if node.instance not in have:
                    ec2.associate_iam_instance_profile(InstanceId=node.instance, IamInstanceProfile={"Name": f"{self.name}-{cluster.name}-{node.name}"})

    def _synth(self, config: Path, out: Path) -> Path:
        shutil.rmtree(out, ignore_errors=True)
        self._cdk("synth", ["synth", "--quiet", "--output", str(out), "-c", f"config={config}", "-c", f"assets={self.assets}"], CDK)
        return out

    def _cached_assembly(self) -> Path:
        real = self.config.read_text()
        ids = sorted(set(re.findall(r"\b(?:i|eni|vpc|rtb)-[0-9a-f]{8,17}\b", real)), key=real.index)
        stand_ins = {one: f"{one.split('-')[0]}-{'f' * 12}{number:05x}" for number, one in enumerate(ids)}
        text = real
        for one, stand_in in stand_ins.items():
            text = text.replace(one, stand_in)
        cached = CACHE / f"cdk.out-{self._fingerprint(text)}"
        if not (cached / "manifest.json").exists():
            config = self.directory / "stand-in.toml"
            config.write_text(text)
            fresh = self._synth(config, self.directory / "cdk.fresh")
            CACHE.mkdir(parents=True, exist_ok=True)
            if not cached.exists():
                try:
                    fresh.rename(cached)
                except OSError:  # another file system, or another run was faster
                    shutil.copytree(fresh, cached, dirs_exist_ok=True)
        out = self.directory / "cdk.out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(cached, out, copy_function=_link_big_files)
        # The template's own hash is its key in the assets bucket: with other content it needs another key.
        mark = hashlib.sha256(real.encode()).hexdigest()
        templates = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.template.json")}
        for path in (*out.glob("*.json"), *out.glob("*.assets.json")):
            content = path.read_text()
            for one, stand_in in stand_ins.items():
                content = content.replace(stand_in, one)
            for old in templates.values():
                content = content.replace(old, hashlib.sha256((old + mark).encode()).hexdigest())
            path.unlink()
            path.write_text(content)
        return out

    def _fingerprint(self, config: str) -> str:
        digest = hashlib.sha256(config.encode())
        for path in sorted([*CDK.glob("bin/*.ts"), *CDK.glob("lib/**/*.ts"), *CDK.glob("*.json"), *(self.assets / f"{one}.zip" for one in ZIPS)]):
            digest.update(str(path).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:20]

    def _cdk(self, step: str, words: list[str], directory: Path) -> None:
        if not CLI.exists():
            raise DeploymentError(f"{CLI} is not installed; run: make setup")
        quiet = {"CI": "1", "CDK_DISABLE_CLI_TELEMETRY": "true", "NO_COLOR": "1"}
        environment = {**os.environ, **quiet, **self.cloud.environment()}
        began = time.monotonic()
        done = subprocess.run([str(CLI), *words], cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_LIMIT_S)
        self.took[step] = time.monotonic() - began
        with self.log.open("a") as log:
            log.write(f"$ cdk {' '.join(words)}\n{done.stdout}{done.stderr}\n")
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise DeploymentError(f"`cdk {words[0]}` ended with {done.returncode}; all of it: {self.log}\n{tail}")


def _link_big_files(source: str, target: str) -> str:
    return shutil.copy2(source, target) if source.endswith(".json") else str(_linked(source, target))


def _linked(source: str, target: str) -> str:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
    return target
