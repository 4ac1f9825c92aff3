"""Copies are compared while they are in use; what one disk cannot read another reads; and what operators ask of replicas."""

from __future__ import annotations

import filecmp
import hashlib
import json
import signal
import time

import pytest

from .replica import CHUNK, Replica, Writer
from .server import BINARY, libnbd, run, wait_until

SIZE = 16 << 20


@pytest.fixture
def pair(folder):
    """A leader and a standby in step with it; the second half of their image holds something everywhere."""
    a, b = Replica(folder, "a", size=SIZE), Replica(folder, "b", size=SIZE)
    with a.backing.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(bytes(range(1, 251)) * (SIZE // 2 // 250))
    try:
        b.follow()
        a.lead(b, args=("--export", "data"))
        a.hears("in sync with")
        yield a, b
    finally:
        for replica in (a, b):
            if replica.process and replica.process.poll() is None:
                replica.kill()


def flip(replica: Replica, offset: int) -> None:
    with replica.backing.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def chunk(replica: Replica, number: int) -> bytes:
    with replica.backing.open("rb") as file:
        file.seek(number * CHUNK)
        return file.read(CHUNK)


def verified(replica: Replica, *args: str, code: int = 0) -> dict:
    return json.loads(run(BINARY, "verify", "--watch", "--json", "--socket", replica.admin, *args, code=None if code else 0))


def peer_of(replica: Replica) -> str:
    """The name of its one peer; what is shown is looked at each second."""
    wait_until("it is shown", lambda: len(replica.status()["peers"]) == 1)
    return str(replica.status()["peers"][0]["incarnation"])


def state(replica: Replica) -> str:
    return next(peer["state"] for peer in replica.status()["peers"])


def test_one_flipped_byte_on_a_standby_is_found_and_copied_over_only_when_asked(pair):
    a, b = pair
    writer = Writer(a, 1, blocks=SIZE // 2 // 4096)
    wait_until("writes", lambda: writer.acknowledged() > 200, 30)
    # Under load, again and again: nothing under way is taken for a difference.
    for _ in range(4):
        found = verified(a, "data")
        assert (found["same"], found["differences"], found["total_bytes"]) == (True, [], SIZE)
        assert [(peer["extent"], peer["compared_bytes"], peer["differing_chunks"]) for peer in found["peers"]] == [("whole", SIZE, 0)]
    flip(b, 200 * CHUNK + 4711)
    spoilt = chunk(b, 200)
    before = writer.acknowledged()
    found = verified(a, code=2)
    [difference] = found["differences"]
    assert (difference["volume"], difference["offset"], difference["bytes"]) == ("data", 200 * CHUNK, CHUNK)
    hashes = [hashlib.sha256(bytes_).hexdigest() for bytes_ in (chunk(a, 200), spoilt)]
    assert [difference["here"], difference["there"]] == hashes
    assert (found["same"], found["peers"][0]["extent"], found["peers"][0]["differing_chunks"]) == (False, "cut off", 1)
    told = next(line for line in a.log.read_text().splitlines() if "ERROR" in line and "a replica in step differs" in line)
    assert all(word in told for word in ['volume="data"', f"offset={200 * CHUNK} ", *hashes]), told
    # It is no member any more, stays as it is, and nothing is copied over it.
    a.hears("out of sync with")
    wait_until("writes go on", lambda: writer.acknowledged() > before + 200, 30)
    time.sleep(1)
    assert state(a) == "differs" and a.status()["peers"][0]["behind_bytes"] > CHUNK
    assert chunk(b, 200) == spoilt
    # Nor when it comes back, nor when the one that found it is another process.
    b.kill()
    b.follow()
    time.sleep(1)
    writer.stop()
    a.end()
    a.lead(b, args=("--export", "data"))
    time.sleep(1.5)
    assert state(a) == "differs"
    assert chunk(b, 200) == spoilt
    assert "no other replica is in step" in a.ask("verify", code=1)
    # Until somebody says so.
    peer = peer_of(a)
    told = a.ask("resync", peer, code=1)
    assert "what only that copy holds is gone for good" in told and "nothing was done" in told
    assert state(a) == "differs"
    a.ask("resync", peer, "--yes")
    a.hears("in sync with")
    assert verified(a)["same"] is True
    assert (a.end(), b.end()) == (0, 0)
    assert filecmp.cmp(a.backing, b.backing, shallow=False)


def test_a_member_that_is_to_be_resynced_leaves_the_set_first_and_comes_back(pair):
    a, b = pair
    writer = Writer(a, 1)
    wait_until("writes", lambda: writer.acknowledged() > 200, 30)
    a.ask("resync", peer_of(a), "--yes")
    a.hears("out of sync with")
    a.hears("in sync with")
    before = writer.acknowledged()
    wait_until("writes go on", lambda: writer.acknowledged() > before + 200, 30)
    writer.stop()
    assert (a.end(), b.end()) == (0, 0)
    assert filecmp.cmp(a.backing, b.backing, shallow=False)


def test_what_the_leaders_disk_cannot_read_is_served_by_the_standby_and_repaired(pair):
    """A file that has lost its end: what is read there is an error, and what is written there is kept."""
    a, b = pair
    whole = a.backing.read_bytes()
    with a.backing.open("r+b") as file:
        file.truncate(SIZE - 2 * CHUNK)
    at = SIZE - 2 * CHUNK
    libnbd(a.uri(), f"assert h.pread({CHUNK}, {at}) == open({str(b.backing)!r}, 'rb').read()[{at}:{at + CHUNK}]")
    wait_until("it is written back", lambda: a.status()["reads_repaired"] == 1)
    assert a.backing.read_bytes()[at : at + CHUNK] == whole[at : at + CHUNK]
    assert "could not read: a peer's copy was answered" in a.log.read_text()
    # What nobody has asked for is found by a verification.
    found = verified(a, code=2)
    assert (found["unreadable_chunks"], found["differences"]) == (1, []), found
    wait_until("all is written back", lambda: a.status()["reads_repaired"] == 2)
    assert verified(a)["same"] is True
    # Without anybody in step the error goes up.
    b.kill()
    a.hears("out of sync with")
    with a.backing.open("r+b") as file:
        file.truncate(SIZE - CHUNK)
    libnbd(a.uri(), f"fails('EIO', h.pread, 4096, {SIZE - 4096})")
    wait_until("it is counted", lambda: a.status()["reads_failed"] >= 1)
    assert "no replica in step could" in a.log.read_text()
    a.kill()


def test_a_replica_that_is_gone_is_forgotten(folder, pair):
    a, b = pair
    peer = peer_of(a)
    assert "is a member" in a.ask("forget-peer", peer, "--yes", code=1)
    assert f"it knows {peer}" in a.ask("forget-peer", "r-none", "--yes", code=1)
    b.kill()
    a.hears("out of sync with")
    assert "nothing was done" in a.ask("forget-peer", peer, code=1)
    assert [one["incarnation"] for one in a.status()["peers"]] == [peer]
    # Nobody has missed it yet.
    libnbd(a.uri(), "h.pwrite(b'x' * 4096, 0)")
    told = a.ask("forget-peer", peer, "--yes")
    assert "No data changes" in told
    wait_until("it is gone", lambda: a.status()["peers"] == [])
    a.end()
    assert "peer " not in a.dump()
    # It comes back, and all of it is compared.
    b.follow()
    a.lead(b)
    a.hears("in sync with")
    assert (a.end(), b.end()) == (0, 0)
    assert filecmp.cmp(a.backing, b.backing, shallow=False)


def test_what_cannot_be_done_is_said(folder, pair):
    a, b = pair
    assert "does not lead" in b.ask("verify", code=1)
    assert "there is no volume \"nope\" here; there are: data" in a.ask("verify", "nope", code=1)
    assert "is the daemon running" in run(BINARY, "verify", "--socket", folder / "none", code=1)
    b.end(signal.SIGKILL)
    a.hears("out of sync with")
    assert "no other replica is in step" in a.ask("verify", code=1)
    b.follow()
    a.hears("in sync with")
    a.end()
    a.lead(b, args=("--verify-rate", "1"))
    a.hears("in sync with")
    assert "has begun" in a.ask("verify")
    assert "is under way" in a.ask("verify", code=1)
    # Whoever leaves meanwhile was not compared as a whole.
    b.kill()
    wait_until("it ends", lambda: (a.status()["verification"] or {}).get("ended_ms_ago") is not None)
    found = a.status()["verification"]
    assert (found["same"], found["peers"][0]["extent"], found["differences"]) == (False, "cut off", [])
    assert found["peers"][0]["compared_bytes"] < SIZE
