"""What a cluster costs that has nothing to do: CPU, memory, and requests to DynamoDB of two idle nodes.

    make bench-idle                SECONDS=60

Requests are counted twice: by the daemons' own metrics, and by the local cloud, which also sees what the scheduled `watch`
asks. The last line is JSON; exit code 1 where a goal is missed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import network
from harness.cloud import Cloud
from harness.cluster import Cluster
from harness.deployment import ClusterSpec, Deployment

from .figures import Machine, table

NAME = "leasehold-bench"
TTL_MS = 3000
METRICS_URL = "http://127.0.0.1:9400/metrics"
SETTLE_S = 10  # joining, the first drift check and the first handshakes are not idleness
TICKS = os.sysconf("SC_CLK_TCK")
GOAL_CPU_PERCENT, GOAL_RSS_MB, GOAL_WRITES, GOAL_READS = 1.0, 30.0, 2.5, 1.5
# Reading the counters of two nodes and of the cloud takes time in which requests go on.
SLACK_REQUESTS = 5
WRITES = {"UpdateItem", "PutItem", "DeleteItem"}
READS = {"GetItem", "Query", "BatchGetItem", "Scan"}
SERIES = re.compile(r'^leasehold_dynamodb_(writes|reads)_total\S* (\d+)', re.MULTILINE)


@dataclass(frozen=True)
class Look:
    """One node at one moment."""

    at: float
    pid: int
    cpu_s: float
    rss_mb: float
    peak_mb: float
    threads: int
    writes: int
    reads: int


def main() -> int:
    seconds = float(os.environ.get("SECONDS", "60"))
    with Cloud() as cloud:
        net = network.create(cloud)
        deployment = Deployment(cloud, NAME, [ClusterSpec("web", net, ttl_ms=TTL_MS)])
        deployment.bootstrap()
        deployment.deploy()
        cluster = Cluster(cloud, net, NAME)
        cluster.register(start=True)
        cluster.wait_serving(in_sync=2, limit_s=60)
        time.sleep(SETTLE_S)
        status = cluster.wait_serving(in_sync=2)
        machine = Machine()
        before = {node: look(cluster, node) for node in net.nodes}
        mark, calls_before, began = cloud.audit_mark(), calls(cloud), time.monotonic()
        time.sleep(seconds)  # nothing is asked of anybody in the meantime
        calls_after, took = calls(cloud), time.monotonic() - began
        audit = [call for call in cloud.audit(mark) if call["service"] == "dynamodb"]
        after = {node: look(cluster, node) for node in net.nodes}
        busy = machine.busy_percent()
        later = cluster.status()
        visits = sum(1 for run in cloud.invocations() if run["function"] == f"{NAME}-watch")
    disturbed = [f"{node} restarted" for node in net.nodes if before[node].pid != after[node].pid]
    if (later.epoch, later.active) != (status.epoch, status.active):
        disturbed.append(f"the lease moved: epoch {status.epoch} on {status.active} to {later.epoch} on {later.active}")
    if disturbed:
        print(f"not idle: {'; '.join(disturbed)}; run it again", file=sys.stderr)
        return 2
    counted = {name: calls_after.get(name, 0) - calls_before.get(name, 0) for name in calls_after}
    return report(before, after, counted, audit, took, str(status.active), visits, busy)


def look(cluster: Cluster, node: str) -> Look:
    pid = cluster.program(node)["pid"]
    assert pid, f"the daemon of {node} does not run"
    # In the node's own network namespace: the listener is on its loopback.
    page = cluster.execute(node, "curl", "--silent", "--show-error", "--fail", METRICS_URL)
    assert page["status"] == 0, f"{METRICS_URL} on {node}: {page['stderr']}"
    found = dict(SERIES.findall(page["stdout"]))
    assert set(found) == {"writes", "reads"}, f"the metrics of {node} have no leasehold_dynamodb_writes_total and _reads_total"
    at = time.monotonic()
    # After the name, which may contain blanks; utime and stime are the 14th and 15th field of all.
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Look(at, pid, (int(stat[11]) + int(stat[12])) / TICKS, kilobytes(status["VmRSS"]), kilobytes(status["VmHWM"]),
                int(status["Threads"]), int(found["writes"]), int(found["reads"]))  # fmt: skip


def kilobytes(text: str) -> float:
    """`  1234 kB` in MB."""
    return int(text.split()[0]) * 1024 / 1e6


def calls(cloud: Cloud) -> dict[str, int]:
    """DynamoDB calls by action so far, everybody's."""
    counts = cloud.control("GET", "health")["calls_by_action"]
    return {name.removeprefix("dynamodb:"): count for name, count in counts.items() if name.startswith("dynamodb:")}


def report(before: dict[str, Look], after: dict[str, Look], counted: dict[str, int], audit: list[dict[str, Any]], took: float, active: str,
           visits: int, busy: float) -> int:  # fmt: skip
    missed: list[str] = []

    def judged(what: str, value: float, goal: float, unit: str) -> str:
        if value > goal:
            missed.append(f"{what}: {value:.2f} {unit}, goal {goal} {unit}")
        return f"goal {goal:g}  {'ok' if value <= goal else 'MISSED'}"

    nodes: dict[str, dict[str, Any]] = {}
    rows = []
    for node, was in before.items():
        now = after[node]
        span = now.at - was.at
        nodes[node] = {"role": "active" if node == active else "standby", "cpu_percent": round(100 * (now.cpu_s - was.cpu_s) / span, 3),
                       "rss_mb": round(now.rss_mb, 2), "peak_mb": round(now.peak_mb, 2), "threads": now.threads,
                       "writes": now.writes - was.writes, "reads": now.reads - was.reads,
                       "writes_per_s": round((now.writes - was.writes) / span, 3), "reads_per_s": round((now.reads - was.reads) / span, 3)}  # fmt: skip
        one = nodes[node]
        verdict = judged(f"{node} CPU", one["cpu_percent"], GOAL_CPU_PERCENT, "% of a core")
        room = judged(f"{node} RSS", one["rss_mb"], GOAL_RSS_MB, "MB")
        rows.append([f"{node} ({one['role']})", f"{one['cpu_percent']:.2f} %", f"{one['rss_mb']:.1f} MB", f"{one['peak_mb']:.1f} MB", str(one["threads"]),
                     f"CPU {verdict}; RSS {room}"])  # fmt: skip
    print(table(["node", "CPU", "RSS", "peak", "threads", f"over {took:.0f} s"], rows))
    print()
    # The cloud's log knows who wrote; reads it only counts, so what is not the nodes' is the functions'.
    by_metrics = {"writes": sum(one["writes"] for one in nodes.values()), "reads": sum(one["reads"] for one in nodes.values())}
    by_cloud = {"writes": sum(counted.get(name, 0) for name in WRITES), "reads": sum(counted.get(name, 0) for name in READS)}
    nodes_wrote = sum(1 for call in audit if call["caller"].get("instance"))
    refused = sum(1 for call in audit if call["error"])
    others = sorted(name for name, count in counted.items() if count and name not in WRITES | READS)
    rates = {what: round(count / took, 3) for what, count in by_cloud.items()}
    spans = [after[node].at - before[node].at for node in nodes]
    own = {what: round(count / (sum(spans) / len(spans)), 3) for what, count in by_metrics.items()}
    goals = {"writes": GOAL_WRITES, "reads": GOAL_READS}
    lines = []
    for what, goal in goals.items():
        shown = judged(f"{what} per cluster", max(rates[what], own[what]), goal, "/s")
        parts = " + ".join(f"{one[f'{what}_per_s']:.2f} {node}" for node, one in nodes.items())
        lines.append([f"{what}/s", f"{own[what]:.2f}", f"{rates[what]:.2f}", str(by_metrics[what]), str(by_cloud[what]), f"{shown}  ({parts})"])
    print(table(["per cluster", "metrics", "cloud", "n metrics", "n cloud", ""], lines))
    print(f"\n  {nodes_wrote} of {len(audit)} writes by nodes, {refused} refused; watch has run {visits} times since the deployment and is in the cloud's numbers only")
    if abs(nodes_wrote - by_metrics["writes"]) > SLACK_REQUESTS:
        missed.append(f"the metrics count {by_metrics['writes']} writes of the nodes, the cloud's log {nodes_wrote}")
    if by_metrics["reads"] > by_cloud["reads"] + SLACK_REQUESTS:
        missed.append(f"the metrics count {by_metrics['reads']} reads, the cloud only {by_cloud['reads']}")
    if others:
        missed.append(f"calls that are neither counted as reads nor as writes: {', '.join(others)}")
    print(f"  the machine's cores were {busy:.0f} % busy")
    for one in missed:
        print(f"  MISSED  {one}")
    result = {"bench": "idle", "seconds": round(took, 1), "ttl_ms": TTL_MS, "nodes": nodes, "writes_per_s": {"metrics": own["writes"], "cloud": rates["writes"]},
              "reads_per_s": {"metrics": own["reads"], "cloud": rates["reads"]}, "nodes_wrote": nodes_wrote, "calls": counted,
              "machine_busy_percent": busy, "missed": missed}  # fmt: skip
    print(json.dumps({"ok": not missed} | result))
    return 0 if not missed else 1


if __name__ == "__main__":
    sys.exit(main())
