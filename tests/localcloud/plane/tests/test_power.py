"""Instances boot, shut down, lose power, freeze; programs are supervised."""

import sys
import time
from pathlib import Path

import pytest

from localcloud.plane_api import ControlError


def eventually(what, limit_s=3.0):
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def test_a_stop_is_told_to_programs_and_then_drops_everything(world):
    script = "import signal,sys,time\ndef bye(*_):\n print('bye', flush=True); sys.exit(0)\nsignal.signal(signal.SIGTERM, bye)\nprint('up', flush=True)\ntime.sleep(60)"
    world.call("PUT", "machines/a/boot", {"start": True, "programs": [{"name": "polite", "command": [sys.executable, "-c", script], "restart": "always"}]})
    log = world.plane.machine("a").program("polite").log_path
    eventually(lambda: "up" in log.read_text())
    world.plane.on_stop(world.cloud.instance("i-a"), False)
    assert "bye" in log.read_text() and world.ask("client") == "" and world.ask("client", "10.0.1.10") == ""
    with pytest.raises(ControlError, match="powered off"):
        world.run("a", "true")
    world.plane.on_start(world.cloud.instance("i-a"))
    eventually(lambda: log.read_text().count("up") == 2)


def test_a_forced_stop_asks_nobody(world):
    stubborn = "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    world.call("PUT", "machines/a/boot", {"start": True, "programs": [{"name": "stubborn", "command": [sys.executable, "-c", stubborn]}]})
    began = time.monotonic()
    world.plane.on_stop(world.cloud.instance("i-a"), True)
    assert time.monotonic() - began < 2


def test_a_machine_that_lost_power_forgets_its_addresses(world):
    world.run("a", "ip", "addr", "add", "10.99.9.9/32", "dev", "lo")
    world.call("POST", "machines/a/power-cut")
    assert world.ask("client") == ""
    world.call("POST", "machines/a/power-back")
    assert "10.99.9.9" not in world.run("a", "ip", "addr")["stdout"]
    eventually(lambda: world.ask("client") == "a")  # its boot programs ran again
    assert world.cloud.off == []


def test_a_killed_program_is_restarted_with_all_it_forked_gone(world):
    world.call("PUT", "machines/a/boot", {"start": True, "programs": [
        {"name": "forks", "command": ["sh", "-c", "sleep 1000 & sleep 1001 & wait"], "restart": "always", "restart_delay_ms": 20}]})
    forks = world.plane.machine("a").program("forks")
    eventually(lambda: len(forks.cgroup.pids()) == 3)
    before = set(forks.cgroup.pids())
    world.call("POST", "machines/a/kill", {"pid": forks.state()["pid"]})
    eventually(lambda: forks.starts == 2 and len(forks.cgroup.pids()) == 3)
    assert not before & set(forks.cgroup.pids())


def test_only_own_processes_can_be_killed(world):
    with pytest.raises(ControlError, match="process 1 is not inside a"):
        world.call("POST", "machines/a/kill", {"pid": 1})


def test_freeze_and_thaw(world):
    world.call("POST", "machines/a/freeze")
    assert world.ask("client") == ""
    world.call("POST", "machines/a/thaw")
    eventually(lambda: world.ask("client") == "a")


def test_the_guest_presses_its_own_power_button(world):
    world.run("a", "sh", "-c", "echo reboot > $LC_POWER")
    eventually(lambda: world.plane.machine("a").boots == 2)
    eventually(lambda: world.ask("client") == "a")
    try:
        world.run("a", "sh", "-c", "echo off > $LC_POWER; sleep 5")
    except ControlError:
        pass
    eventually(lambda: world.cloud.off == ["i-a"])


def test_a_bad_boot_command_names_all_problems(world):
    with pytest.raises(ControlError, match="unknown key 'comand'.*command: a list.*restart: 'maybe'"):
        world.call("PUT", "machines/a/boot", {"programs": [{"name": "x", "comand": [], "restart": "maybe"}]})


def test_each_boot_of_each_machine_has_its_own_boot_id(world):
    def boot_id(who):
        return world.run(who, "cat", "/proc/sys/kernel/random/boot_id")["stdout"]

    first = boot_id("a")
    assert first == boot_id("a") != boot_id("b")
    world.plane.on_reboot(world.cloud.instance("i-a"))
    assert boot_id("a") != first


def test_a_start_right_after_a_kill_is_not_lost(world):
    """The program that was killed is not gone yet, nor is it to be restarted: the start counts all the same."""
    world.call("PUT", "machines/a/boot", {"start": True, "programs": [{"name": "forks", "command": ["sleep", "1000"], "restart": "always"}]})
    forks = world.plane.machine("a").program("forks")
    for turn in range(1, 11):
        eventually(lambda: forks.cgroup.pids())
        world.call("POST", "machines/a/programs/forks/kill", {"signal": "KILL", "everything": True, "hold": True})
        world.call("POST", "machines/a/programs/forks/start")
        eventually(lambda turn=turn: forks.starts == turn + 1 and forks.running())


def test_a_plane_that_ends_while_programs_start_leaves_none(world):
    """What is being started has not entered its cgroup when that is killed, but a moment later."""
    programs = [{"name": f"sleep{n}", "command": ["sleep", "1000"]} for n in range(10)]
    world.call("PUT", "machines/a/boot", {"start": True, "programs": programs})
    pids = [world.plane.machine("a").program(one["name"]).state()["pid"] for one in programs]
    world.plane.stop()
    eventually(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text() for pid in pids))
