"""An operator looks at a running cluster from its nodes: `leasehold status`, for people and for programs, on the active and on the
standby, and the page that Prometheus scrapes."""

import json
import re
import time

from harness.paths import BINARY, ROOT

METRICS_URL = "http://127.0.0.1:9400/metrics"
METRICS = ROOT / "sidecar" / "src" / "metrics.rs"


def _status(scene, node, *options):
    done = scene.cluster.execute(node, str(BINARY), "status", "--socket", str(scene.cluster.files[node].admin_socket), *options)
    assert done["status"] == 0, done
    return done["stdout"]


def _scrape(scene, node):
    done = scene.cluster.execute(node, "curl", "--silent", "--fail", METRICS_URL)
    assert done["status"] == 0, done
    return done["stdout"]


def _screen_of_the_standby(scene):
    """It reads the row each 2 s: until then it does not know that it is in sync."""
    until = time.monotonic() + 4
    while "NOT take over" in (screen := _status(scene, scene.standby)) and time.monotonic() < until:
        time.sleep(0.2)
    return screen


def _series(page):
    """Each series with its value."""
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))}


def test_the_screen_says_who_serves_and_what_would_happen(scene):
    instance, standby = scene.network.nodes[scene.active].instance, scene.standby
    screen = _status(scene, scene.active)
    assert re.match(rf"{scene.cluster.name}   SERVING on {scene.active} for \d\d:\d\d:\d\d, epoch {scene.epoch}   \({instance}\)    in sync: ", screen), screen
    assert f"If {scene.active} died now: {standby} takes over in about" in screen and "nothing lost" in screen, screen
    assert re.search(r"^  nginx +running$", screen, re.MULTILINE), screen
    assert re.search(rf"^  address +{re.escape(scene.network.virtual_ip)} held on lo$", screen, re.MULTILINE), screen
    other = _screen_of_the_standby(scene)
    assert other.startswith(f"{scene.cluster.name}   served by {scene.active}, epoch {scene.epoch}; {standby} is standby for "), other
    assert f"If {scene.active} died now: {standby} may take over in about" in other, other
    assert re.search(rf"^  address +{re.escape(scene.network.virtual_ip)} not held on lo$", other, re.MULTILINE), other
    for text in (screen, other):
        assert "!!" not in text, text
        assert re.search(rf"in sync: ({scene.active}, {standby}|{standby}, {scene.active})$", text.splitlines()[0]), text


def test_json_says_the_same(scene):
    _screen_of_the_standby(scene)
    for node, role in ((scene.active, "active"), (scene.standby, "standby")):
        status = json.loads(_status(scene, node, "--json"))
        serves = node == scene.active
        assert (status["cluster"], status["node"], status["me"]["instance"]) == (scene.cluster.name, node, scene.network.nodes[node].instance)
        assert (status["beliefs"]["role"], status["beliefs"]["epoch"], status["holds"]) == (role, scene.epoch, serves)
        assert status["beliefs"]["row"]["holder"]["node"] == scene.active
        assert len(status["beliefs"]["row"]["in_sync"]) == 2 and status["unprotected_for_ms"] is None
        assert (status["beliefs"]["authority"] is not None) == serves
        assert status["address"]["addresses"] == [scene.network.virtual_ip] and status["address"]["held"] == serves
        assert [one["state"] for one in status["resources"]] == ["running" if serves else "stopped"]
        assert [peer["outgoing_up_ms"] is not None and peer["incoming_up_ms"] is not None for peer in status["peers"]] == [True]
        assert sorted(status["members"]) == sorted(scene.network.nodes) and status["config_trouble"] is None
        assert status["dynamodb"]["writes"] > 0 and status["events"]["failed"] == 0


def test_a_standby_that_is_gone_is_told_with_its_exit_code(scene):
    scene.cluster.power_cut(scene.standby)
    scene.cluster.wait_until("alone in sync", lambda status: status.in_sync == 1)
    time.sleep(0.5)
    done = scene.cluster.execute(scene.active, str(BINARY), "status", "--socket", str(scene.cluster.files[scene.active].admin_socket))
    assert done["status"] == 2, done
    assert "!! NOT PROTECTED: no standby in sync for" in done["stdout"] and "no automatic failover" in done["stdout"], done


def test_prometheus_finds_every_metric_and_the_counters_move(scene):
    _screen_of_the_standby(scene)
    names = re.findall(r'page\.(gauge|counter)s?\(\s*"(\w+)"', METRICS.read_text())
    assert len(names) > 20, names
    # Of a node without volumes, and of a cluster without [ports]: none. Those are looked at where there are some.
    names = [one for one in names if not one[1].startswith(("volumes_", "ports_"))]
    for node, role in ((scene.active, "active"), (scene.standby, "standby")):
        page = _scrape(scene, node)
        missing = [name for kind, name in names if f"# TYPE leasehold_{name} {kind}\n" not in page]
        assert missing == [], f"{missing} of {node} are missing in:\n{page}"
        first = _series(page)
        assert [name for name, value in first.items() if name.startswith("leasehold_role{") and value] == [f'leasehold_role{{role="{role}"}}']
        assert first["leasehold_epoch"] == scene.epoch and first["leasehold_in_sync_members"] == 2
        assert first["leasehold_address_held"] == (node == scene.active)
        time.sleep(2.5)
        second = _series(_scrape(scene, node))
        # What each does all the time: the holder renews its row, the standby reads it, both write their heartbeat.
        often = "write_row" if node == scene.active else "read_row"
        for operation in (often, "write_heartbeat"):
            name = f'leasehold_dynamodb_requests_total{{operation="{operation}",outcome="answered"}}'
            assert second[name] > first[name], f"{name} of {node} stands still at {first[name]}"
        for name in ("dynamodb_writes_total", "peer_frames_sent_total", "peer_frames_received_total"):
            assert second[f"leasehold_{name}"] > first[f"leasehold_{name}"], name
        fell = [name for name in first if "_total" in name and second[name] < first[name]]
        assert fell == [], "a counter never goes down"
