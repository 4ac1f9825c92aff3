"""What a crashed run left is removed; what a live one uses is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localcloud.plane import cgroup, netns, owner, sweep

TESTS = Path(__file__).resolve().parents[3]
# A run that starts a node with a program, says so, and waits to be killed.
CRASHING = """
import sys, time
from pathlib import Path
from localcloud.plane import create
from localcloud.plane.tests.fake_cloud import FakeCloud
cloud = FakeCloud(Path(sys.argv[1]))
plane = create(cloud)
plane.start()
plane.on_change(cloud.describe())
plane.on_run(cloud.instance("i-a"))
plane.control("PUT", "machines/a/boot", {}, {"start": True, "programs": [{"name": "sleeps", "command": ["sleep", "1000"]}]})
print(cloud.run, plane.machine("a").program("sleeps").state()["pid"], flush=True)
time.sleep(100)
"""


def runs(pid: str) -> bool:
    """A dead process whose new parent has not asked for its status yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
def test_a_killed_run_is_swept_and_a_live_one_is_not(world, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", CRASHING, str(tmp_path)], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    run, pid = dead.stdout.readline().split()
    assert netns.named(f"lc{run}-") == [f"lc{run}-a", f"lc{run}-aws", f"lc{run}-router"]
    assert run not in sweep.sweep()
    dead.kill()
    dead.wait()
    assert runs(pid)
    done = subprocess.run([sys.executable, "-m", "localcloud.plane.sweep"], cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0 and run in done.stdout, done.stderr
    assert not runs(pid) and netns.named(f"lc{run}-") == []
    assert not (cgroup.mount_point() / f"lc{run}").exists()
    assert run not in [one.run for one in owner.all_owners()]
    assert world.ask("client") == "a"


def test_stop_leaves_nothing(world):
    prefix = world.plane.prefix
    world.plane.stop()
    world.plane.stop()
    assert netns.named(prefix) == [] and not (cgroup.mount_point() / prefix).exists()
