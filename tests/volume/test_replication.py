"""Two processes keep two files equal: nothing that a client was told is lost, whoever dies."""

from __future__ import annotations

import filecmp
import signal
import subprocess
import time

from .replica import CHUNK, History, Replica, Writer
from .server import BINARY, libnbd, run, wait_until


def are_equal(*replicas: Replica) -> bool:
    return all(filecmp.cmp(replicas[0].backing, other.backing, shallow=False) for other in replicas[1:])


def test_a_blank_standby_is_brought_to_what_the_leader_has(pair):
    a, b = pair
    with a.backing.open("r+b") as file:
        file.seek(5 * CHUNK)
        file.write(b"what was there before" * 1000)
    b.follow()
    a.lead(b)
    a.hears("in sync with")
    libnbd(a.uri(), "h.pwrite(b'x' * 5000, 12345); h.zero(100000, 200000); h.trim(65536, 1 << 20); h.flush(); assert h.pread(3, 12345) == b'xxx'")
    assert (a.end(), b.end()) == (0, 0)
    assert are_equal(a, b)
    assert b"what was there before" in b.backing.read_bytes()


def test_an_acknowledged_write_is_on_both_whoever_dies(pair):
    """Kill the leader under load, let the other lead, bring the first back, over and over."""
    leader, standby = pair
    history = History()
    standby.follow()
    leader.lead(standby)
    leader.hears("in sync with")
    for turn in range(1, 5):
        writer = Writer(leader, turn)
        wait_until("writes", lambda: writer.acknowledged() > 300, 30)
        leader.kill()
        writer.process.wait(30)
        history.take(writer)
        standby.end()
        history.judge(standby.backing)
        leader, standby = standby, leader
        standby.port = 0
        standby.follow()
        leader.lead(standby)
        leader.hears("in sync with")
    assert (leader.end(), standby.end()) == (0, 0)
    history.judge(leader.backing)
    assert are_equal(leader, standby)
    assert history.acknowledged > 1200


def test_a_standby_that_was_away_gets_only_what_changed(pair):
    a, b = pair
    b.follow()
    a.lead(b)
    a.hears("in sync with")
    writer = Writer(a, 1)
    wait_until("writes", lambda: writer.acknowledged() > 200, 30)
    b.kill()
    a.hears("out of sync with")
    before = writer.acknowledged()
    wait_until("writes without it", lambda: writer.acknowledged() > before + 200, 30)
    writer.stop()
    b.follow()
    a.hears("in sync with")
    assert (a.end(), b.end()) == (0, 0)
    assert are_equal(a, b)
    history = History()
    history.take(writer)
    history.judge(b.backing)


def test_a_resync_that_is_cut_off_goes_on(folder):
    """And the half image is never promoted."""
    a, b = (Replica(folder, name, size=256 << 20) for name in ("a", "b"))
    with a.backing.open("r+b") as file:
        for at in range(0, 256 << 20, CHUNK):
            file.write(at.to_bytes(8, "big") * (CHUNK // 8))
    try:
        b.follow()
        a.lead(b)
        b.hears("a resync is under way")
        # Told at once, durable a little later, and only then does anything change.
        wait_until("the first chunk", lambda: b.backing.stat().st_blocks > 0)
        b.kill()
        assert "in the middle of a resync" in b.dump()
        assert 0 < b.differing_chunks()
        told = run(BINARY, "serve", "--backing", b.backing, "--metadata", b.metadata, "--peer", "127.0.0.1:1", "--socket", b.socket, code=1)
        assert "it can only follow" in told
        b.follow()
        a.hears("in sync with")
        assert (a.end(), b.end()) == (0, 0)
        assert are_equal(a, b)
        assert "whole" in b.dump()
    finally:
        for replica in (a, b):
            if replica.process and replica.process.poll() is None:
                replica.kill()


def test_both_die_and_start_in_either_order(pair):
    a, b = pair
    history = History()
    b.follow()
    a.lead(b)
    a.hears("in sync with")
    for turn, is_leader_first in enumerate([True, False], start=1):
        writer = Writer(a, turn)
        wait_until("writes", lambda writer=writer: writer.acknowledged() > 200, 30)
        for replica in (a, b) if is_leader_first else (b, a):
            replica.kill()
        writer.process.wait(30)
        history.take(writer)
        if is_leader_first:
            b.follow()
            a.lead(b)
        else:
            # It finds nobody at first.
            a.lead(b)
            time.sleep(0.5)
            b.follow()
        a.hears("in sync with")
    assert (a.end(), b.end()) == (0, 0)
    history.judge(a.backing)
    assert are_equal(a, b)


def test_a_standby_that_hangs_is_left_behind_and_comes_back(pair):
    a, b = pair
    b.follow()
    a.lead(b)
    a.hears("in sync with")
    writer = Writer(a, 1)
    wait_until("writes", lambda: writer.acknowledged() > 100, 30)
    assert b.process
    b.process.send_signal(signal.SIGSTOP)
    a.hears("out of sync with")
    before = writer.acknowledged()
    wait_until("writes without it", lambda: writer.acknowledged() > before + 100, 30)
    b.process.send_signal(signal.SIGCONT)
    a.hears("in sync with")
    writer.stop()
    assert (a.end(), b.end()) == (0, 0)
    assert are_equal(a, b)


def test_a_leader_whose_peer_promised_another_steps_aside(folder, pair):
    """Two lead: the one with the older epoch is told by the standby, and acknowledges nothing more."""
    a, b = pair
    c = Replica(folder, "c")
    try:
        b.follow()
        a.lead(b)
        a.hears("in sync with")
        # A new epoch each time, until it is past the first one's.
        while a.process.poll() is None:
            c.lead(b)
            time.sleep(0.3)
            c.end()
        assert a.process.returncode == 1
        assert "somebody else leads by now" in a.log.read_text()
    finally:
        if c.process and c.process.poll() is None:
            c.kill()


def test_histories_that_parted_are_both_kept(pair):
    a, b = pair
    b.follow()
    a.lead(b)
    a.hears("in sync with")
    b.end()
    libnbd(a.uri(), "h.pwrite(b'a' * 4096, 0)")
    a.end()
    b.lead(a)
    libnbd(b.uri(), "h.pwrite(b'b' * 4096, 0)")
    b.end()
    for leader, standby in ((a, b), (b, a)):
        standby.follow()
        leader.lead(standby)
        wait_until("it is told", lambda leader=leader: leader.process.poll() == 1 or "holds writes that this replica never had" in leader.log.read_text())
        leader.end()
        standby.end()
    # Whoever has the older epoch steps aside; the other one tells what is the matter.
    assert any("holds writes that this replica never had" in one.log.read_text() for one in pair)
    assert (a.backing.read_bytes()[:1], b.backing.read_bytes()[:1]) == (b"a", b"b")


def test_replicas_of_other_clusters_or_sizes_are_refused(folder, pair):
    a, _ = pair
    for name, options in (("c", {"lineage": "another"}), ("d", {"size": 8 << 20})):
        other = Replica(folder, name, **options)
        other.follow()
        a.lead(other)
        wait_until("it is told", lambda other=other: "Stranger" in other.log.read_text())
        assert (a.end(), other.end()) == (0, 0)


def test_metadata_at_the_end_of_the_backing(folder):
    backing = folder / "disk"
    with backing.open("wb") as file:
        file.truncate(16 << 20)
    told = run(BINARY, "create", "--backing", backing)
    assert "bytes of metadata behind the first volume" in told
    assert "is a replica already" in run(BINARY, "create", "--backing", backing, code=1)
    # By itself it is not served: what is written past the replication would not be noticed.
    assert "--peer or --listen" in run(BINARY, "serve", "--backing", backing, "--socket", folder / "s", code=1)
    assert "image       whole" in run(BINARY, "dump-metadata", "--backing", backing)


def test_a_device_that_holds_data_keeps_it(folder):
    backing = folder / "disk"
    data = b"a file system" + bytes(999) + b"!" * (16 << 20)
    backing.write_bytes(data[: 16 << 20])
    assert "--metadata FILE" in run(BINARY, "create", "--backing", backing, code=1)
    assert backing.read_bytes() == data[: 16 << 20]
    run(BINARY, "create", "--backing", backing, "--metadata", folder / "m")
    assert "exists" in run(BINARY, "create", "--backing", backing, "--metadata", folder / "m", code=1)
    assert backing.read_bytes() == data[: 16 << 20]


def test_bad_input_is_told(folder, pair):
    a, _ = pair
    serve = ("serve", "--backing", a.backing, "--metadata", a.metadata)
    here = ("--socket", a.socket)
    assert "--insecure" in run(BINARY, *serve, *here, "--peer", "192.0.2.1:7000", code=1)
    assert "--insecure" in run(BINARY, *serve, "--listen", "0.0.0.0:0", code=1)
    assert "10809" in run(BINARY, *serve, *here, "--peer", "nonsense", code=1)
    assert "cannot be used with" in run(BINARY, *serve, "--listen", "127.0.0.1:0", "--peer", "127.0.0.1:1", code=2)
    assert "leasehold volume create" in run(BINARY, "serve", "--backing", a.backing, *here, "--peer", "127.0.0.1:1", code=1)
    assert "cannot be opened" in run(BINARY, "dump-metadata", "--backing", a.backing, "--metadata", folder / "no", code=1)
    a.metadata.write_bytes(bytes(a.metadata.stat().st_size))
    assert "no superblock can be read" in run(BINARY, *serve, *here, "--peer", "127.0.0.1:1", code=1)
    assert "extents" not in run(BINARY, "create", "--backing", a.backing, "--metadata", folder / "x", "--chunk", "99", code=1)
