"""The active node's workload cannot be ended, not even by force: the node reboots itself by its fence command, and the
other takes over.

A process that SIGKILL does not reach hangs in the kernel, which no test can order. Here the node's configured cgroup is a
directory of ordinary files: what the daemon writes into `cgroup.kill` goes nowhere, nginx lives on, and `cgroup.events` goes
on saying so, as the kernel's would.
"""

import shutil

import pytest

from .conftest import TTL_S

STOP_LIMIT_MS = 1000
BOOT_MS = 8000  # longer than the lease: the rebooted node is not there to take its own lease again

START = """\
#!/bin/sh
echo "populated 1" > {cgroup}/cgroup.events
echo "populated 1" > {cgroup}/nginx/cgroup.events
exec {home}/start
"""

# After a boot nothing of it is left, which a plain file does not know.
FENCE = """\
#!/bin/sh
grep -qs {home}/nginx "/proc/$(cat {home}/nginx/nginx.pid)/cmdline" && echo "the workload lived" > {home}/fenced
echo "populated 0" > {cgroup}/cgroup.events
echo "populated 0" > {cgroup}/nginx/cgroup.events
echo reboot > "$LC_POWER"
"""


@pytest.fixture
def hung(scene):
    """The name of a node, now active, whose workload does not end."""
    node = scene.standby
    files = scene.cluster.files[node]
    home, cgroup = files.home, files.home / "cgroup-of-files"
    before, fence_before = files.config.read_text(), (home / "fence").read_text()
    for group in (cgroup, cgroup / "nginx"):
        group.mkdir()
        (group / "cgroup.procs").write_text("")
        (group / "cgroup.events").write_text("populated 0\n")
    for name, text in (("start-hung", START), ("fence", FENCE)):
        (home / name).write_text(text.format(home=home, cgroup=cgroup))
        (home / name).chmod(0o755)
    config = before.replace(f'"{home / "start"}"', f'"{home / "start-hung"}"').replace(f'"{home / "stop"}"', '"/bin/true"')
    config += f'stop_limit_ms = {STOP_LIMIT_MS}\n\n[workload]\ncgroup = "{cgroup}"\n'
    scene.cluster.power_cut(node)
    files.config.write_text(config)
    scene.cluster.wait_until("alone in sync", lambda status: status.in_sync == 1)
    scene.cluster.power_back(node)
    scene.cluster.wait_until("both in sync", lambda status: status.in_sync == 2 and (status.heartbeats[node] or {}).get("role") == "standby")
    scene.cluster.invoke("switchover", to=node)
    scene.taken_over(node)
    scene.whole_again()
    scene.cloud.plane("PATCH", "", {"boot_ms": BOOT_MS})
    yield node
    scene.cloud.plane("PATCH", "", {"boot_ms": 0})
    scene.cloud.end_fault()
    scene.cluster.power_cut(node)
    files.config.write_text(before)
    (home / "fence").write_text(fence_before)
    shutil.rmtree(cgroup)
    for left in ("fenced", "tried"):
        (home / left).unlink(missing_ok=True)
    scene.cluster.power_back(node)


def test_the_node_is_rebooted(scene, hung):
    scene.expect_in_logs("workload that does not end")
    other, epoch = scene.active, scene.cluster.status().epoch
    home = scene.cluster.files[hung].home
    scene.cluster.invoke("switchover", to=other)
    scene.cluster.wait_serving(other, above_epoch=epoch, limit_s=30)
    assert (home / "fenced").exists(), "it was not rebooted by the fence command"
    assert (home / "fenced").read_text() == "the workload lived\n"
    assert "rebooting this machine" in scene.logs()[hung]
    scene.cluster.wait_until("all routes moved", lambda _: set(scene.cluster.routes().values()) == {other}, limit_s=4 * TTL_S)
    scene.whole_again()


def test_nor_can_the_next_daemon_end_it(scene, hung):
    """The daemon dies, and what it left is said to live on: its next start must not go on beside a workload that may still serve."""
    scene.expect_in_logs("workload that does not end")
    other, epoch = scene.active, scene.cluster.status().epoch
    home = scene.cluster.files[hung].home
    # Once the fence itself fails: the start after it tries again.
    fence = (home / "fence").read_text()
    (home / "fence").write_text(fence.replace("#!/bin/sh\n", f"#!/bin/sh\n[ -e {home}/tried ] || {{ touch {home}/tried; exit 1; }}\n"))
    machine = f"machines/{scene.network.nodes[hung].instance}"
    boots = scene.cloud.plane("GET", machine)["boots"]
    assert scene.cluster.kill(hung), "no daemon was killed"
    scene.cluster.wait_serving(other, above_epoch=epoch, limit_s=30)
    scene.cluster.wait_until("rebooted by its fence", lambda _: scene.cloud.plane("GET", machine)["boots"] == boots + 1, limit_s=40)
    log = scene.logs()[hung]
    assert log.count("rebooting this machine: an earlier daemon's workload does not end") == 2, log
    assert "this machine had to reboot" in log and (home / "tried").exists(), log
    scene.cluster.wait_until("all routes moved", lambda _: set(scene.cluster.routes().values()) == {other}, limit_s=4 * TTL_S)
    scene.whole_again()
