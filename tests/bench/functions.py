"""What the functions cost with 20 route tables: cold starts, warm decisions, and how long 20 routes take to be rewritten.

    make bench-functions           SAMPLES=25

The deployed zips in the local cloud, two running nodes. The last line is JSON; exit code 1 where a goal is missed. A goal is
judged by the 90th percentile: the machine has other work, and its worst moment is not the functions'.

The local cloud limits neither CPU nor memory. Lambda gives a function of 128 MB about a fourteenth of a core once it has
started, so CPU time per run is told beside wall time, and what it would take there if it were nothing but computing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import network
from harness.cloud import Cloud
from harness.cluster import Cluster
from harness.deployment import ZIPS, ClusterSpec, Deployment
from harness.paths import DIST

from .figures import Machine, spread, table

NAME = "leasehold-bench"
TTL_MS = 3000
TABLES = 20
ATTEMPTS = 5
# A function spends no more changes of routes than EC2 gives (lambdas/src/budget.rs): 50 at once, then 5 a second. Without
# pauses between them, the runs would measure that.
PAUSE_S = TABLES / 5
GOAL_INIT_MS, GOAL_DECISION_MS, GOAL_ZIP_MB, GOAL_MEMORY_MB = 60, 300, 10, 128
# Between watch's two looks at a cluster, by design (lambdas/src/watch.rs, visit): two beats (ttl/4) or 1.25 heartbeats (2 s), and 300 ms.
WATCH_PAUSE_MS = max(2 * TTL_MS // 4, 2000 * 5 // 4) + 300
# Lambda: "at 1,769 MB, a function has the equivalent of one vCPU", in proportion to its memory.
CORES_AT_128_MB = 128 / 1769


def main() -> int:
    samples = int(os.environ.get("SAMPLES", "25"))
    if samples < 20:
        print(f"SAMPLES={samples}: at least 20, fewer have no 90th percentile worth the name", file=sys.stderr)
        return 2
    with Cloud() as cloud:
        bench = Bench(cloud, samples)
        machine = Machine()
        bench.cold()
        bench.warm()
        bench.nominations()
        bench.drift_by_event()
        bench.drift_by_watch()
        busy = machine.busy_percent()
        sizes = {name: (DIST / f"{name}.zip").stat().st_size for name in ZIPS}
        memory = {name: bench.lambdas.get_function_configuration(FunctionName=f"{NAME}-{name}")["MemorySize"] for name in ZIPS}
        peak = max(run["peak_memory_kb"] or 0 for run in cloud.invocations()) / 1024
    return report(bench, sizes, memory, peak, busy)


class Bench:
    """A deployment with two nodes, and samples in milliseconds by what was measured."""

    def __init__(self, cloud: Cloud, samples: int):
        self.cloud, self.samples = cloud, samples
        self.took: dict[str, list[float]] = {}
        self.cpu: dict[str, float] = {}  # mean per run
        # The nodes' table, the clients', and further ones.
        self.net = network.create(cloud, more_route_tables=TABLES - 2)
        assert len(self.net.route_tables) == TABLES
        deployment = Deployment(cloud, NAME, [ClusterSpec("web", self.net, ttl_ms=TTL_MS)])
        deployment.bootstrap()
        deployment.deploy()
        self.cluster = Cluster(cloud, self.net, NAME)
        self.cluster.register(start=True)
        founded = self.cluster.wait_serving(in_sync=2, limit_s=60)
        # An epoch that no function began: a run that another one drives already is given a second first, by design.
        self.cluster.kill(str(founded.active))
        status = self.cluster.wait_serving(in_sync=2, above_epoch=founded.epoch, limit_s=60)
        self.active = str(status.active)
        self.standby = next(name for name in self.net.nodes if name != self.active)
        self.epoch = status.epoch
        self.lambdas = cloud.client("lambda")
        # What the cluster's beginning has woken is over, and every route leads to the active node.
        self.cluster.wait_until("every route at the active node", lambda _: set(self.cluster.routes().values()) == {self.active})
        self._until_idle()
        # The standby has told of itself: before that, a decision waits for its next heartbeat.
        until = time.monotonic() + 30
        while self.cluster.invoke("plan", to=self.standby).get("now", {}).get("switchover") != "possible":
            assert time.monotonic() < until, "a switchover is not possible half a minute after the cluster has begun to serve"
            time.sleep(0.5)

    # ---- what is measured

    def cold(self) -> None:
        """From the process's start to its first request for work, and the first run, which has every connection to open."""
        for _ in range(self.samples):
            self._retire("failover")
            run = self._run("failover", {"action": "plan", "cluster": "web", "to": self.standby})
            assert run["cold"], "the environment was retired, and yet the run was warm"
            self._add("failover: init", run["init_ms"])
            self._add("failover: first run, plan", run["run_ms"])

    def warm(self) -> None:
        plan = {"action": "plan", "cluster": "web", "to": self.standby}
        self._warm("failover: plan", plan, lambda answer: len(answer["changes"]) == TABLES)
        self._warm("failover: event, all routes right", self._accepted(), lambda answer: answer["outcome"] == "nothing" and answer["rule"] == "R120")
        # Waits, by design, until the holder has renewed once.
        self._warm("failover: status (until a beat)", {"action": "status", "cluster": "web"}, lambda answer: answer["network"]["matches"])

    def nominations(self) -> None:
        """A decision that is written: a suspicion as the standby would put it, though the active node lives. It is nominated at
        once, by R210, and the holder's next renewal makes the nomination void: nothing moves, but the decision was real."""
        self._run("failover", self._suspected())  # warm from here on
        for _ in range(self.samples):
            run, nominated = self._nominated()
            self._add("failover: suspicion to nomination", (nominated - run["started"]) * 1000)
        status = self.cluster.status()
        assert (status.active, status.epoch) == (self.active, self.epoch), f"a nomination beside a living holder was accepted: {status}"

    def drift_by_event(self) -> None:
        """A node says that it holds the lease and no route leads to it: what follows each acceptance that no function drove."""
        for _ in range(self.samples):
            run, written = self._rewritten("failover", self._accepted())
            self._add("failover: event to first route", (written[0] - run["started"]) * 1000)
            self._add("failover: event to all 20 routes", (written[-1] - run["started"]) * 1000)

    def drift_by_watch(self) -> None:
        for _ in range(self.samples):
            run, written = self._rewritten("watch", {})
            assert run["run_ms"] > WATCH_PAUSE_MS, "watch no longer waits between its looks as this benchmark believes"
            self._add("watch: second look to all 20", (written[-1] - run["started"]) * 1000 - WATCH_PAUSE_MS)
            self._add("watch: first to last of 20", (written[-1] - written[0]) * 1000)
            self._add("watch: run, its pause deducted", run["run_ms"] - WATCH_PAUSE_MS)

    # ---- how

    def _warm(self, what: str, payload: dict[str, Any], good: Callable[[Any], bool]) -> None:
        self._run("failover", payload)  # warm from here on
        before = self._cpu_ms("failover")
        for _ in range(self.samples):
            run = self._run("failover", payload)
            assert not run["cold"], f"{what}: a cold run among the warm ones"
            assert good(run["response"]), f"{what}: unexpected answer {run['response']}"
            self._add(what, run["run_ms"])
        self.cpu[what] = (self._cpu_ms("failover") - before) / self.samples

    def _rewritten(self, name: str, payload: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
        """A run, warm, and the wall clock times of the routes that it rewrote."""
        for _ in range(ATTEMPTS):
            time.sleep(PAUSE_S)
            self._move_away()
            mark = self.cloud.audit_mark()
            run = self._run(name, payload)
            calls = [call for call in self.cloud.audit(mark) if call["action"] == "ReplaceRoute" and call["applied"]]
            mine = sorted(call["time"] for call in calls if call["caller"].get("environment") == run["environment"])
            if not run["cold"] and len(mine) == TABLES:
                return run, mine
            # Cold, or the scheduled watch came in between and did some of it.
        raise AssertionError(f"{name} was to rewrite {TABLES} routes, warm, and did not in {ATTEMPTS} runs; last: {run['response']}")

    def _nominated(self) -> tuple[dict[str, Any], float]:
        """A run, warm, and the wall clock time at which its nomination was written."""
        for _ in range(ATTEMPTS):
            mark = self.cloud.audit_mark()
            run = self._run("failover", self._suspected())
            written = [call["time"] for call in self.cloud.audit(mark)
                       if call["applied"] and call["action"] == "UpdateItem" and call["caller"].get("environment") == run["environment"]
                       and isinstance((call["params"].get("written") or {}).get("nominee"), dict)]  # fmt: skip
            if not run["cold"] and len(written) == 1:
                assert run["response"]["outcome"] == "holder_returned", run["response"]
                return run, written[0]
            # The holder renewed before the write: the suspicion was stale.
        raise AssertionError(f"failover was to nominate, warm, and did not in {ATTEMPTS} runs; last: {run['response']}")

    def _suspected(self) -> dict[str, Any]:
        """As the standby puts it, right after a renewal, so that the run has time before the next."""
        row = self.cluster.row()
        until = time.monotonic() + TTL_MS / 1000
        while (now := self.cluster.row())["beat"] == row["beat"] and time.monotonic() < until:
            time.sleep(0.01)
        detail = {"v": 1, "cluster": "web", "node": self.standby, "epoch": now["epoch"], "beat": now["beat"], "silent_ms": 1850, "peer_link": False}
        return {"source": "leasehold", "detail-type": "Holder Suspected", "detail": detail}

    def _run(self, name: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The record of one invocation."""
        before = max((run["seq"] for run in self.cloud.invocations()), default=0)
        answer = self.lambdas.invoke(FunctionName=f"{NAME}-{name}", Payload=json.dumps(payload).encode())
        request = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amzn-requestid")
        runs = [run for run in self.cloud.invocations(before) if run["function"] == f"{NAME}-{name}" and run["trigger"]["type"] == "invoke"]
        assert len(runs) == 1, f"one invocation of {name} made {len(runs)} records (request {request})"
        run = runs[0]
        assert run["status"] == "ok" and "error" not in (run["response"] or {}), f"{name} {payload}: {run['status']} {run['response']}"
        return run

    def _accepted(self) -> dict[str, Any]:
        """As the active node puts it when it has accepted the lease."""
        detail = {"v": 1, "cluster": "web", "rule": "R400", "holder": self.active, "epoch": self.epoch}
        return {"source": "leasehold", "detail-type": "Failover Accepted", "detail": detail}

    def _move_away(self) -> None:
        network.move_routes(self.cloud, self.net, self.standby)

    def _retire(self, name: str) -> None:
        """Until none is left: one that has just answered is not idle yet."""
        while any(one["function"] == f"{NAME}-{name}" and one["dead"] is None for one in self.cloud.control("GET", "lambda")):
            self.cloud.control("POST", "lambda", {"function": f"{NAME}-{name}", "action": "retire"})
            time.sleep(0.02)

    def _until_idle(self) -> None:
        until = time.monotonic() + 60
        while any(run["status"] == "running" for run in self.cloud.invocations()):
            assert time.monotonic() < until, "some function still runs a minute after the cluster has begun to serve"
            time.sleep(0.2)

    def _cpu_ms(self, name: str) -> float:
        """On a core so far, all environments and threads of the function."""
        pids = [one["pid"] for one in self.cloud.control("GET", "lambda") if one["function"] == f"{NAME}-{name}" and one["dead"] is None]
        return sum(int(path.read_text().split()[0]) for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6

    def _add(self, what: str, value: float) -> None:
        self.took.setdefault(what, []).append(round(value, 2))


GOALS_MS = {
    "failover: init": GOAL_INIT_MS,
    "failover: plan": GOAL_DECISION_MS,
    "failover: event, all routes right": GOAL_DECISION_MS,
    "failover: suspicion to nomination": GOAL_DECISION_MS,
    "failover: event to first route": GOAL_DECISION_MS,
    "watch: second look to all 20": GOAL_DECISION_MS,
}


def report(bench: Bench, sizes: dict[str, int], memory: dict[str, int], peak_mb: float, busy: float) -> int:
    missed = []
    rows = []
    spreads = {what: spread(values) for what, values in bench.took.items()}
    for what, found in spreads.items():
        goal = GOALS_MS.get(what)
        if goal is not None and found["p90"] > goal:
            missed.append(f"{what}: p90 {found['p90']:.1f} ms, goal {goal} ms")
        remark = "" if goal is None else f"goal {goal}  {'ok' if found['p90'] <= goal else 'MISSED'}"
        cpu = bench.cpu.get(what)
        at_128 = "" if cpu is None else f"{cpu / CORES_AT_128_MB:.0f}"
        rows.append([what, *(f"{found[part]:.1f}" for part in ("p50", "p90", "p99", "max")), "" if cpu is None else f"{cpu:.1f}", at_128, remark])
    print(table(["ms, 20 route tables", "p50", "p90", "p99", "max", "CPU", "at 128 MB", f"{bench.samples} samples each"], rows))
    print()
    sized = []
    for name, size in sizes.items():
        good = size <= GOAL_ZIP_MB * 1e6 and memory[name] == GOAL_MEMORY_MB
        sized.append([f"{name}.zip", f"{size / 1e6:.2f} MB", f"{memory[name]} MB of memory", f"goal {GOAL_ZIP_MB} MB at {GOAL_MEMORY_MB}  {'ok' if good else 'MISSED'}"])
        if not good:
            missed.append(f"{name}.zip: {size / 1e6:.2f} MB, memory size {memory[name]} MB")
    if peak_mb > GOAL_MEMORY_MB:
        missed.append(f"peak memory {peak_mb:.0f} MB of {GOAL_MEMORY_MB} MB")
    print(table(["zip", "size", "configured", ""], sized))
    print(f"\n  peak memory of any run {peak_mb:.1f} MB; the machine's cores were {busy:.0f} % busy")
    for one in missed:
        print(f"  MISSED  {one}")
    result = {"bench": "functions", "samples": bench.samples, "route_tables": TABLES, "ms": spreads,
              "cpu_ms": {what: round(value, 2) for what, value in bench.cpu.items()}, "zip_bytes": sizes, "memory_mb": memory,
              "peak_memory_mb": round(peak_mb, 1), "machine_busy_percent": busy, "missed": missed}  # fmt: skip
    print(json.dumps({"ok": not missed} | result))
    return 0 if not missed else 1


if __name__ == "__main__":
    sys.exit(main())
