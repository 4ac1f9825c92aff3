"""A standby whose leader is lost in the middle of a resync: its image of before can be had again."""

from __future__ import annotations

import filecmp
import shutil
import time
from pathlib import Path

import pytest

from .replica import CHUNK, Replica
from .server import BINARY, run

SIZE = 96 << 20


@pytest.fixture
def behind(folder: Path, request: pytest.FixtureRequest) -> tuple[Replica, Replica, Path]:
    """A leader, a standby that is down and lacks all that has been written since, and its image as it was."""
    leader, standby = Replica(folder, "a", size=SIZE), Replica(folder, "b", size=SIZE)
    for replica in (leader, standby):
        request.addfinalizer(lambda replica=replica: replica.process and replica.process.poll() is None and replica.kill())
    # Slowly: what is brought up to date is to be killed before it has all.
    leader.lead(standby.follow(), args=("--resync-floor", "32", "--resync-ceiling", "32"))
    leader.hears("in sync with")
    _fill(leader, 0x11, 0, SIZE)
    standby.kill()
    leader.hears("out of sync with")
    # Before the copy is made: the machine has not lost power, so what the process wrote is there.
    before = folder / "before.img"
    shutil.copyfile(standby.backing, before)
    _fill(leader, 0x22, 0, SIZE)
    return leader, standby, before


def _fill(leader: Replica, byte: int, at: int, size: int) -> None:
    run("qemu-io", "-f", "raw", leader.uri(), "-c", f"write -P {byte} {at} {size}", "-c", "flush")


def _undo(standby: Replica) -> Path:
    return standby.folder / "undo"


def _kept_bytes(standby: Replica) -> int:
    try:
        return _undo(standby).stat().st_size
    except FileNotFoundError:
        return 0


def _resync_until(standby: Replica, kept: int) -> None:
    standby.follow("--undo", str(_undo(standby)))
    until = time.monotonic() + 20
    while _kept_bytes(standby) < kept:
        assert time.monotonic() < until, f"{_kept_bytes(standby)} bytes are kept\n{standby.log.read_text()[-4000:]}"
        time.sleep(0.001)


def _rollback(standby: Replica, *args: str, code: int = 0) -> str:
    return run(BINARY, "rollback", "--backing", standby.backing, "--metadata", standby.metadata, "--undo", _undo(standby), *args, code=code)


def test_a_resync_whose_leader_is_lost_is_rolled_back(behind: tuple[Replica, Replica, Path]) -> None:
    leader, standby, before = behind
    # Twice, with a new process between: it goes on with what was kept.
    _resync_until(standby, 2 << 20)
    standby.kill()
    first = _kept_bytes(standby)
    _resync_until(standby, first + (2 << 20))
    assert standby.status()["undo_log"] is True
    leader.kill()
    standby.kill()
    assert "what it was before is in the undo log" in standby.dump()
    assert not filecmp.cmp(standby.backing, before, shallow=False), "some of it was overwritten"
    assert "not confirmed" in _rollback(standby, code=1)
    assert not filecmp.cmp(standby.backing, before, shallow=False), "nothing was done unasked"
    said = _rollback(standby, "--yes")
    assert "are put back" in said
    assert filecmp.cmp(standby.backing, before, shallow=False)
    assert "image       whole" in standby.dump()
    assert "nothing to put back" in _rollback(standby, "--yes", code=1)
    # It can serve, and the lost one, when it comes back, is not taken in: it holds what this one never had.
    leader.follow()
    standby.lead(leader)
    run("qemu-io", "-f", "raw", standby.uri(), "-c", f"read -P {0x11} 0 {SIZE}")
    until = time.monotonic() + 20
    while "both are kept as they are" not in standby.log.read_text():
        assert time.monotonic() < until, standby.log.read_text()[-4000:]
        time.sleep(0.05)


def test_a_resync_that_ends_leaves_nothing_behind(behind: tuple[Replica, Replica, Path]) -> None:
    leader, standby, _ = behind
    standby.follow("--undo", str(_undo(standby)))
    leader.hears("in sync with")
    leader.end()
    standby.end()
    assert filecmp.cmp(leader.backing, standby.backing, shallow=False)
    assert _kept_bytes(standby) == 0
    assert "nothing to put back" in _rollback(standby, "--yes", code=1)


def test_a_log_that_is_full_does_not_hold_up_the_resync_and_is_not_taken_for_whole(behind: tuple[Replica, Replica, Path]) -> None:
    leader, standby, before = behind
    standby.follow("--undo", str(_undo(standby)), "--undo-limit", "1")
    until = time.monotonic() + 20
    while "the undo log is full" not in standby.log.read_text():
        assert time.monotonic() < until, standby.log.read_text()[-4000:]
        time.sleep(0.001)
    standby.kill()
    if "image       whole" not in standby.dump():
        # Where it was killed before it could save that nothing more is kept, it had overwritten nothing more either.
        said = _rollback(standby, "--yes", code=None)
        assert "nothing is known of the image before" in said or filecmp.cmp(standby.backing, before, shallow=False), said
    standby.follow("--undo", str(_undo(standby)), "--undo-limit", "1")
    leader.hears("in sync with")
    leader.end()
    standby.end()
    assert filecmp.cmp(leader.backing, standby.backing, shallow=False)


def test_a_log_that_was_lost_or_damaged_is_not_taken_for_whole(behind: tuple[Replica, Replica, Path]) -> None:
    leader, standby, _ = behind
    # More than is under way at once: by then the first chunks were confirmed, and a later one says so.
    _resync_until(standby, 40 << 20)
    leader.kill()
    standby.kill()
    kept = _undo(standby).read_bytes()
    # A byte of the second chunk, behind two headers: whoever wrote the later ones was sure of it.
    at = (4096 + CHUNK) + 4096 + 5
    _undo(standby).write_bytes(kept[:at] + b"\xff" + kept[at + 1 :])
    assert "it was damaged" in _rollback(standby, "--yes", code=1)
    _undo(standby).unlink()
    assert "nothing is known of the image before" in _rollback(standby, "--yes", code=1)
    # A daemon that meets no log goes on without.
    standby.follow("--undo", str(_undo(standby)))
    leader.lead(standby)
    leader.hears("in sync with")
    assert "the undo log has nothing of the resync that was interrupted" in standby.log.read_text()
