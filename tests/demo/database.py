"""The same for a database: PostgreSQL on a replicated volume, under pgbench, loses its node. What was acknowledged is counted."""

from __future__ import annotations

import time

from harness import database, network, postgres, timeline
from harness.clients import Clients
from harness.cloud import Cloud
from harness.deployment import ClusterSpec, Deployment
from harness.judges import assert_only_functions_changed_network, assert_single_service
from harness.scene import SETTLE_S, Scene

from .screen import BOLD, DIM, GREEN, RED, Screen, columns

NAME = "leasehold-demo-data"
TTL_MS = 3000
TITLE = "kill -9 all of the database's node, under pgbench"
LOAD_S = 3.0  # before and after
WHOLE_LIMIT_S = 90


def play(screen: Screen, cloud: Cloud, number: int) -> dict[str, object]:
    """In a cloud of its own. Answers what the closing JSON says of it, `problems` among it."""
    net = network.create(cloud)
    with screen.step("database", "a second cluster: cdk bootstrap, cdk deploy") as said:
        deployment = Deployment(cloud, NAME, [ClusterSpec("data", net, ttl_ms=TTL_MS)])
        deployment.bootstrap()
        deployment.deploy()
        said.append(f"{NAME}: deployed")
    cluster = postgres.cluster(cloud, net, NAME, "data")
    with screen.step("database", "initdb on a blank volume, and its copy on the other node") as said:
        cluster.register(start=True)
        cluster.wait_serving(in_sync=2, limit_s=WHOLE_LIMIT_S)
        said.append(f"PostgreSQL on ext4 on a volume of {postgres.VOLUME_BYTES >> 20} MiB, each write on both nodes before it is acknowledged")
    with Clients(cloud, net) as clients:
        scene = Scene(cloud, net, cluster, clients)
        server = database.Server(clients.client.namespace, net.virtual_ip)
        with screen.step("database", "pgbench fills its tables") as said:
            server.wait(WHOLE_LIMIT_S)
            scene.prepare()
            users = database.Users(server).start()
            said.append(f"pgbench with {database.CLIENTS} clients, and one that commits one number after the other")
        screen.line()
        screen.live(lambda: f"  {users.acknowledged:,} transactions acknowledged   {TITLE}")
        time.sleep(LOAD_S)
        began = time.monotonic()
        scene.cluster.kill(scene.active, everything=True, hold=True)
        scene.taken_over(limit_s=WHOLE_LIMIT_S)
        server.wait(WHOLE_LIMIT_S)
        time.sleep(LOAD_S)
        gap = users.writer.gap(began)
        steps = timeline.read(cloud.audit(scene.audit_mark), clients.client.answers(began), began, cluster.name, scene.standby)
        rule = timeline.rule(cloud.audit(scene.audit_mark), began, cluster.name, scene.standby)
        users.stop()
        cluster.start(scene.active)
        scene.whole_again(WHOLE_LIMIT_S)
        found = users.verdict(postgres.images(cluster))
        problems = list(found.problems)
        time.sleep(SETTLE_S)
        for check in (lambda: assert_single_service(clients.pinned_answers(scene.mark)), lambda: assert_only_functions_changed_network(cloud.audit(scene.audit_mark), NAME)):
            try:
                check()
            except AssertionError as error:
                problems.append(str(error))
    screen.live(None)
    title, verdict = f"{number}  {TITLE}", f"{rule}   no commit for {gap:.1f} s"
    screen.line(f"  {screen.colour(f'{title:<{screen.width - len(verdict) - 3}}', BOLD)} {screen.colour(verdict, RED if problems else GREEN)}")
    cells = [f"{0:.2f} {scene.active} was active"] + [f"{step.at:.2f} {step.detail}" for step in steps]
    for text in columns(cells, screen.width, 5):
        screen.line(screen.colour(text, DIM))
    told = f"     {users.acknowledged:,} transactions acknowledged, {found.lost} of them lost"
    screen.line(told if problems else f"{told}; the bank's sums are equal, pg_amcheck finds nothing, the replicas are equal")
    return {"from": scene.active, "to": scene.standby, "rule": rule, "longest_gap_s": round(gap, 3), "acknowledged": users.acknowledged, "lost": found.lost,
            "steps": {step.what: round(step.at, 3) for step in steps}, "problems": problems}  # fmt: skip
