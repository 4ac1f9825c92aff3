"""What the daemon tells systemd, and that the unit file says what systemd understands: ready when it runs, a status line for
`systemctl status`, a pulse for the watchdog that ends when the daemon hangs, and that it is stopping.

There is no systemd here: the story listens on the notification socket in its place, and acts as its watchdog would.
"""

import configparser
import os
import socket
import subprocess
import time

import pytest

from harness.paths import ROOT

from .conftest import TTL_S

UNIT = ROOT / "sidecar" / "dist" / "leasehold.service"


@pytest.fixture
def told(scene, tmp_path):
    """The standby, started as by the unit. Gives what it tells: a function that waits for the next message."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        scene.cluster.stop(scene.standby)
        scene.cluster.set_environment(scene.standby, NOTIFY_SOCKET=str(path), WATCHDOG_USEC=str(_watchdog_s() * 1_000_000))
        scene.cluster.start(scene.standby)

        def next_message(limit_s):
            listener.settimeout(max(limit_s, 0.01))
            try:
                return listener.recv(4096).decode()
            except TimeoutError:
                return None

        yield next_message
        scene.cluster.stop(scene.standby)  # while somebody still listens
    scene.cluster.set_environment(scene.standby)
    scene.cluster.start(scene.standby)
    scene.cluster.wait_until("both in sync again", lambda status: status.in_sync == 2)


def _unit():
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(UNIT)
    return unit["Service"]


def _watchdog_s():
    return int(_unit()["WatchdogSec"])


def _all_within(told, seconds):
    """Each message with when it came."""
    until, found = time.monotonic() + seconds, []
    while (left := until - time.monotonic()) > 0:
        if message := told(left):
            found.append((time.monotonic(), message))
    return found


def test_ready_status_pulse_and_stopping(scene, told):
    assert _unit()["Type"] == "notify", "the unit waits for no READY"
    began = time.monotonic()
    found = _all_within(told, _watchdog_s() + 2)
    lines = [line for _, message in found for line in message.splitlines()]
    assert lines.count("READY=1") == 1 and lines[0] == "READY=1", lines
    assert f"STATUS=standby, epoch {scene.epoch}" in lines, lines
    pulses = [at for at, message in found if "WATCHDOG=1" in message]
    pauses = [after - before for before, after in zip([began, *pulses], [*pulses, time.monotonic()])]
    assert max(pauses) < _watchdog_s() / 2, f"a watchdog of {_watchdog_s()} s is fed with pauses of {pauses}"
    scene.cluster.stop(scene.standby)
    said = [message for _, message in _all_within(told, 1)]
    assert "STOPPING=1" in "".join(said), said


def test_a_daemon_that_hangs_is_ended_by_the_watchdog_and_comes_back(scene, told):
    scene.cluster.wait_until("both in sync", lambda status: status.in_sync == 2)
    daemon = scene.cluster.program(scene.standby)
    os.kill(daemon["pid"], 19)
    _all_within(told, 1)  # what was said before
    silent = _all_within(told, _watchdog_s())
    assert silent == [], f"a daemon that hangs feeds its watchdog: {silent}"
    assert _unit()["WatchdogSignal"] == "SIGKILL"
    assert _watchdog_s() <= TTL_S, "the workload of a daemon that hangs outlives the takeover"
    # As systemd does now, and then Restart=always.
    scene.cluster.kill(scene.standby)
    scene.cluster.wait_until("both in sync again", lambda status: status.in_sync == 2, limit_s=4 * TTL_S)
    assert scene.cluster.program(scene.standby)["starts"] == daemon["starts"] + 1
    assert scene.cluster.status().epoch == scene.epoch and scene.failed_requests() == 0


def test_the_unit_is_one_that_systemd_understands(tmp_path):
    # Under another path: the verifier wants the program to be where the unit says.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/leasehold", str(ROOT / "target" / "release" / "leasehold")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert done.returncode == 0 and ours == [], done.stderr
