"""The demo: the real stack in the local cloud, two nodes, a client, and four ways to lose the active node; then a database that
loses its node.

    make demo            KEEP=1 leaves everything up, with instructions to play

The last line is JSON. Exit code 0: every story went as promised and no request was ever answered by two nodes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

from harness import answers, network, timeline
from harness.clients import Clients
from harness.cloud import REGION, Cloud
from harness.cluster import Cluster
from harness.deployment import CLI, ZIPS, ClusterSpec, Deployment
from harness.judges import assert_only_functions_changed_network, assert_probed, assert_single_service
from harness.paths import BINARY, CDK, DIST
from harness.scene import SETTLE_S, Scene

from . import database
from .screen import BOLD, DIM, GREEN, RED, Screen, bytes_text, columns
from .stories import STORIES, Story

NAME = "leasehold-demo"
TTL_MS = 3000
GAP_GOAL_S = {"switchover": 1.0}  # the promised longest gap, per story; others:
FAILOVER_GOAL_S = 7.0


class Interrupted(Exception):
    pass


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    began = time.monotonic()
    result: dict[str, object] = {"ok": False}
    clouds: list[Cloud] = []
    try:
        tools(screen)
        build(screen)
        with screen.step("cloud", "starting the local cloud") as said:
            cloud = Cloud()
            clouds.append(cloud)
            said.append(f"DynamoDB EventBridge Lambda IAM EC2, packets for one VPC; {REGION}, port {cloud.port}")
        result |= play(screen, cloud)
        screen.line()
        clouds.append(Cloud())
        result["database"] = database.play(screen, clouds[-1], len(STORIES) + 1)
        conclude(screen, result)
        if os.environ.get("KEEP") == "1":
            keep(screen, *clouds)
        result["ok"] = not result["problems"]
    except (KeyboardInterrupt, Interrupted):
        result["error"] = "interrupted"
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
        screen.line(screen.colour(f"\n  {result['error']}", RED))
        for one in clouds:
            screen.line(f"  Its logs: {one.work} (cloud.log, cloud/logs/, deploy-*/cdk.log)")
    finally:
        screen.close()
        for one in clouds:
            one.stop()
            if result["ok"]:
                shutil.rmtree(one.work, ignore_errors=True)
    result["seconds"] = round(time.monotonic() - began, 1)
    if "DEMO_BEGAN" in os.environ:  # by `make demo`: with all that it installed and built
        result["seconds_with_build"] = round(time.time() - float(os.environ["DEMO_BEGAN"]), 1)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


def tools(screen: Screen) -> None:
    with screen.step("tools", "looking for nginx, nftables, node, cdk") as said:
        missing = [name for name in ("nginx", "nft", "ip", "node") if shutil.which(name) is None]
        if missing or not CLI.exists():
            raise RuntimeError(f"not installed: {', '.join(missing) or 'the CDK CLI'}; run: make setup")
        if os.geteuid() != 0:
            raise RuntimeError("network namespaces need root; run: sudo make demo")
        said.append(f"nginx {_word(['nginx', '-v'], '/')}, nftables {_word(['nft', '-v'], ' v').split(' ')[0]}, moto {version('moto')}, "
                    f"node {_word(['node', '-v'], 'v')}, cdk {json.loads((CDK / 'node_modules' / 'aws-cdk' / 'package.json').read_text())['version']}")  # fmt: skip


def build(screen: Screen) -> None:
    with screen.step("build", "looking at what was built") as said:
        absent = [str(path) for path in (BINARY, *(DIST / f"{one}.zip" for one in ZIPS)) if not path.exists()]
        if absent:
            raise RuntimeError(f"not built: {', '.join(absent)}; run: make build")
        said.append(f"leasehold {bytes_text(BINARY.stat().st_size)}, " + ", ".join(f"{one}.zip {bytes_text((DIST / f'{one}.zip').stat().st_size)}" for one in ZIPS))


def play(screen: Screen, cloud: Cloud) -> dict[str, object]:
    net = network.create(cloud, more_route_tables=1)
    deployment = Deployment(cloud, NAME, [ClusterSpec("web", net, ttl_ms=TTL_MS)])
    with screen.step("deploy", "cdk bootstrap") as said:
        deployment.bootstrap()
        said.append("cdk bootstrap")
    with screen.step("deploy", "cdk deploy") as said:
        deployment.deploy()
        said.append(f"{NAME}: {_resources(deployment)}")
    cluster = Cluster(cloud, net, NAME)
    with screen.step("cluster", "two nodes: who takes the lease?") as said:
        cluster.register(start=True)
        status = cluster.wait_serving(in_sync=2, limit_s=60)
        active = str(status.active)
        standby = next(name for name in net.nodes if name != active)
        cloud.settle()
        said.append(f"web: {_place(net, active)} active, {_place(net, standby)} standby in sync; VIP {net.virtual_ip} → {net.nodes[active].eni[:9]}…")
    problems: list[str] = []
    told = []
    with Clients(cloud, net) as clients:
        scene = Scene(cloud, net, cluster, clients)
        clients.client.wait_for()
        first = time.monotonic()
        first_audit = cloud.audit_mark()
        screen.line()
        for number, story in enumerate(STORIES, 1):
            outcome = tell(screen, scene, story, number)
            told.append(outcome)
            problems += outcome.pop("problems")  # type: ignore[arg-type]
        time.sleep(SETTLE_S)
        seen = clients.client.answers(first)
        end = time.monotonic()
        for check in (lambda: assert_probed([one.probed(first, end) for one in clients.all()], end - first), lambda: assert_single_service(clients.pinned_answers(first)), lambda: assert_only_functions_changed_network(cloud.audit(first_audit), NAME)):
            try:
                check()
            except AssertionError as error:
                problems.append(str(error))
    screen.live(None)
    return {"stories": told, "answered": answers.count(seen), "failed": answers.failed(seen), "problems": problems}


def conclude(screen: Screen, result: dict[str, object]) -> None:
    problems: list[str] = result["problems"] + result["database"].pop("problems")  # type: ignore[operator, attr-defined]
    result["problems"] = problems
    screen.line()
    for problem in problems:
        screen.line(screen.colour(f"  {problem}", RED))
    if not problems:
        screen.line(f"  {result['answered']:,} requests answered, {result['failed']} failed; never by two nodes at once; only the functions changed routes.")
    screen.line("  Everything above ran the deployed stack. What it cannot show without AWS: README, \"Not yet shown\".")


def tell(screen: Screen, scene: Scene, story: Story, number: int) -> dict[str, object]:
    screen.live(client_line(screen, scene, "getting ready"))
    scene.prepare()
    screen.live(client_line(screen, scene, story.title))
    problems: list[str] = []
    began = story.act(scene)
    scene.taken_over(limit_s=30)
    scene.cluster.wait_until("all routes moved", lambda _: set(scene.cluster.routes().values()) == {scene.standby}, limit_s=30)
    time.sleep(SETTLE_S)
    gap = scene.gap(began)
    seen = scene.clients.client.answers(began)
    steps = timeline.read(scene.cloud.audit(scene.audit_mark), seen, began, scene.cluster.name, scene.standby)
    goal = GAP_GOAL_S.get(story.key, FAILOVER_GOAL_S)
    good = gap.seconds <= goal
    if not good:
        problems.append(f"{story.title}: longest gap {gap.seconds:.1f} s, promised {goal:.0f} s")
    title = f"{number}  {story.title}"
    rule = timeline.rule(scene.cloud.audit(scene.audit_mark), began, scene.cluster.name, scene.standby)
    # No rule chose where the holder, asked to end, handed over by itself.
    verdict = f"{rule or 'handed over'}   longest gap {gap.seconds:.1f} s"
    screen.live(None)
    screen.line(f"  {screen.colour(f'{title:<{screen.width - len(verdict) - 3}}', BOLD)} {screen.colour(verdict, GREEN if good else RED)}")
    cells = [f"{0:.2f} {scene.active} was active"] + [f"{step.at:.2f} {step.detail}" for step in steps]
    for text in columns(cells, screen.width, 5):
        screen.line(screen.colour(text, DIM))
    return {"story": story.key, "from": scene.active, "to": scene.standby, "rule": rule, "longest_gap_s": round(gap.seconds, 3), "failed": answers.failed(seen),
            "steps": {step.what: round(step.at, 3) for step in steps}, "problems": problems}  # fmt: skip


def client_line(screen: Screen, scene: Scene, doing: str) -> Callable[[], str]:
    def text() -> str:
        seen = scene.clients.client.answers()
        last = seen[-1] if seen else None
        by = f"answered by {last.answered_by}" if last and last.ok else "no answer"
        return f"  client → {scene.clients.client.url}   {by}   {answers.count(seen):,} ok   {answers.failed(seen)} failed   {doing}"

    return text


def keep(screen: Screen, cloud: Cloud, data: Cloud) -> None:
    env = " ".join(f"{key}={value}" for key, value in cloud.environment().items() if key in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"))
    state = cloud.plane("GET")
    ids = {machine["name"]: one for one, machine in state["machines"].items() if not machine["host"]}
    invoke = f"aws lambda invoke --function-name {NAME}-failover --payload"
    screen.line(f"""
  It stays up until Ctrl-C. In another shell (root):
    export {env} PATH={os.path.dirname(sys.executable)}:$PATH
    ask as the client     nsenter --net=/run/netns/lc{cloud.run}-client curl -s http://{network.VIP}/
    who serves            {invoke} '{{"action":"status","cluster":"web"}}' /dev/stdout
    planned switchover    {invoke} '{{"action":"switchover","cluster":"web"}}' /dev/stdout
    stop, start a node    aws ec2 stop-instances --instance-ids {ids.get("a")}
    cut a node off, heal  curl -d '{{"between":["a","*"]}}' {cloud.endpoint}/_localcloud/plane/cuts;  curl -X DELETE {cloud.endpoint}/_localcloud/plane/cuts
    look inside a node    nsenter --net=/run/netns/lc{cloud.run}-a ip addr show lo
    the database          nsenter --net=/run/netns/lc{data.run}-client psql -h {network.VIP} -U postgres -c "SELECT count(*) FROM told"
    its volumes           {BINARY} volume status --socket {data.work}/data/a/run/node.sock
    logs                  {cloud.work}/cloud/logs/ {data.work}/cloud/logs/""")
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        screen.line()


def _resources(deployment: Deployment) -> str:
    kinds = [one["ResourceType"] for one in deployment.stack_resources()]
    shown = {"table": "AWS::DynamoDB::Table", "function": "AWS::Lambda::Function", "rule": "AWS::Events::Rule", "role": "AWS::IAM::Role"}
    counts = [(kinds.count(kind), name) for name, kind in shown.items()]
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)


def _place(net: network.Network, node: str) -> str:
    return f"{node} (AZ {net.nodes[node].zone[-2:]})"


def _word(command: list[str], after: str = "") -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    text = (done.stdout + done.stderr).strip()
    return text.split(after, 1)[1].strip() if after and after in text else text


def _interrupt(*_: object) -> None:
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main())
