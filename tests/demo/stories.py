"""What is done to the cluster, in order. Each story names what it does, does it, and leaves the cluster whole again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from harness import timeline
from harness.scene import Scene

AWS_CLI = Path(sys.executable).parent / "aws"


@dataclass(frozen=True)
class Story:
    title: str
    key: str  # in the closing JSON
    act: Callable[[Scene], float]  # answers with the moment (CLOCK_MONOTONIC) at which the cluster was disturbed


def _aws(scene: Scene, *words: str) -> str:
    """The ordinary AWS command line, as an operator would type it."""
    done = subprocess.run([str(AWS_CLI), *words], env={**os.environ, **scene.cloud.environment(), "AWS_PAGER": ""}, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"`aws {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def stop_instance(scene: Scene) -> float:
    _aws(scene, "ec2", "stop-instances", "--instance-ids", scene.network.nodes[scene.active].instance)
    # The command line takes a second to start: what counts is when EC2 heard of it.
    return timeline.monotonic(next(call["time"] for call in scene.cloud.audit(scene.audit_mark) if call["action"] == "StopInstances"))


def kill_everything(scene: Scene) -> float:
    began = time.monotonic()
    scene.cluster.kill(scene.active, everything=True, hold=True)
    return began


def cut_off(scene: Scene) -> float:
    began = time.monotonic()
    scene.cloud.cut(scene.active, "*")
    return began


def switch_over(scene: Scene) -> float:
    payload = json.dumps({"action": "switchover", "cluster": scene.cluster.name, "to": scene.standby})
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "answer.json"
        # Version 1 of the command line, which PyPI has; version 2 wants `--cli-binary-format raw-in-base64-out` besides.
        _aws(scene, "lambda", "invoke", "--function-name", f"{scene.cluster.deployment}-failover", "--payload", payload, str(answer))
    return timeline.monotonic(next(run["started"] for run in scene.invocations() if run["trigger"]["type"] == "invoke"))


STORIES = [
    Story("stop the active instance", "stop_instance", stop_instance),
    Story("kill -9 the active's daemon and workload", "kill", kill_everything),
    Story("cut the active off the network", "network_cut", cut_off),
    Story("planned switchover by `aws lambda invoke`", "switchover", switch_over),
]
