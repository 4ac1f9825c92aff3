"""Whatever happens to the nodes of a database, what its clients were told is there: KILLS kills and more, one after the other.

    make chaos            KILLS=200 SEED=1

PostgreSQL on a replicated volume, two nodes of the real stack in the local cloud, pgbench and a client that counts. Round by
round: load, a disturbance drawn by SEED, the cluster is whole again, and then, with the load stopped: every number whose commit
was acknowledged is there, the bank's sums are equal and no acknowledged transaction is missing, pg_amcheck finds nothing, the
replicas are equal byte for byte, no two nodes ever served at once. The first thing that is wrong ends the run, and its folder
stays. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.figures import spread
from harness import database, network, postgres
from harness.clients import Clients
from harness.cloud import Cloud
from harness.deployment import ClusterSpec, Deployment
from harness.judges import NotWatched, assert_only_functions_changed_network, assert_probed, assert_single_service
from harness.scene import SETTLE_S, Scene

from .disturbances import DISTURBANCES, Disturbance

NAME = "leasehold-chaos"
TTL_MS = 3000
WHOLE_LIMIT_S = 120
LOAD_S = (0.5, 3.0)  # before the disturbance


class Failed(Exception):
    pass


@dataclass
class Tally:
    """What was done and found so far."""

    kills: int = 0
    disturbances: Counter[str] = field(default_factory=Counter)
    numbers: int = 0  # acknowledged to the writer
    bank_transactions: int = 0  # acknowledged to pgbench
    lost: int = 0
    new_epochs: int = 0
    not_watched: int = 0  # rounds in which the probers missed too much to tell that no two nodes served at once
    gaps: list[float] = field(default_factory=list)

    def result(self) -> dict[str, object]:
        return {"kills": self.kills, "rounds": self.disturbances.total(), "disturbances": dict(self.disturbances), "acknowledged": self.numbers + self.bank_transactions,
                "lost": self.lost, "numbers": self.numbers, "bank_transactions": self.bank_transactions, "new_epochs": self.new_epochs,
                "longest_gap_s": spread(self.gaps) if self.gaps else None, "rounds_not_watched": self.not_watched}  # fmt: skip


def main() -> int:
    kills, seed = int(os.environ.get("KILLS", "200")), int(os.environ.get("SEED", str(random.randrange(1, 1_000_000))))
    print(f"chaos: {kills} kills, SEED={seed}; one thing that is wrong ends it", flush=True)
    tally, error, began = Tally(), None, time.monotonic()
    cloud = Cloud()
    try:
        with cloud:  # its folder stays where this ends in an error
            run(cloud, kills, random.Random(seed), tally)
    except (Failed, AssertionError) as failure:
        error = str(failure)
        print(f"\n  WRONG: {error}\n  The nodes' logs and replicas stay in {cloud.work}", file=sys.stderr, flush=True)
    print(json.dumps({"ok": error is None, "seed": seed} | tally.result() | {"seconds": round(time.monotonic() - began, 1)} | ({"error": error} if error else {})))
    return 0 if error is None else 1


def run(cloud: Cloud, kills: int, dice: random.Random, tally: Tally) -> None:
    net = network.create(cloud)
    deployment = Deployment(cloud, NAME, [ClusterSpec("data", net, ttl_ms=TTL_MS)])
    deployment.bootstrap()
    deployment.deploy()
    cluster = postgres.cluster(cloud, net, NAME, "data")
    cluster.register(start=True)
    with Clients(cloud, net) as clients:
        scene = Scene(cloud, net, cluster, clients)
        cluster.wait_serving(in_sync=2, limit_s=WHOLE_LIMIT_S)
        first_epoch = cluster.status().epoch
        server = database.Server(clients.client.namespace, net.virtual_ip)
        while tally.kills < kills:
            disturbance = dice.choices(DISTURBANCES, [one.weight for one in DISTURBANCES])[0]
            number = tally.disturbances.total() + 1
            scene.prepare()
            try:
                told = play(scene, server, disturbance, dice, tally)
            except (Failed, AssertionError) as failure:
                raise Failed(f"round {number}, {disturbance.name} (active {scene.active}, epoch {scene.epoch}): {failure}") from failure
            tally.new_epochs = cluster.status().epoch - first_epoch
            print(f"  {tally.kills:3d}/{kills} kills  round {number:3d}  {disturbance.name:<36} longest gap {tally.gaps[-1]:5.1f} s   "
                  f"{told:5d} transactions acknowledged, all there", flush=True)  # fmt: skip


def play(scene: Scene, server: database.Server, disturbance: Disturbance, dice: random.Random, tally: Tally) -> int:
    """One round. Answers how many transactions were acknowledged in it."""
    users = database.Users(server).start()
    try:
        time.sleep(dice.uniform(*LOAD_S))
        disturbed = time.monotonic()
        tally.kills += disturbance.act(scene, dice)
        tally.disturbances[disturbance.name] += 1
        scene.whole_again(WHOLE_LIMIT_S)
        server.wait(WHOLE_LIMIT_S)
        time.sleep(dice.uniform(0, 1))
        tally.gaps.append(users.writer.gap(disturbed))
    finally:
        users.stop()
    tally.numbers += len(users.writer.acknowledged)
    tally.bank_transactions += users.bank.acknowledged
    verdict = users.verdict(postgres.images(scene.cluster))
    tally.lost += verdict.lost
    if verdict.problems:
        raise Failed("; ".join(verdict.problems))
    end = time.monotonic()
    time.sleep(SETTLE_S)
    assert_single_service(scene.clients.pinned_answers(scene.mark), scene.leaks)
    assert_only_functions_changed_network(scene.cloud.audit(scene.audit_mark), NAME)
    try:
        assert_probed([one.probed(scene.mark, end) for one in scene.clients.all()], end - scene.mark)
    except NotWatched:
        tally.not_watched += 1
    return users.acknowledged


if __name__ == "__main__":
    sys.exit(main())
