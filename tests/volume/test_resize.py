"""Disks grow, one replica after the other, and the volume with them; and what of two histories is given up is copied aside."""

from __future__ import annotations

import filecmp
import hashlib

from .replica import CHUNK, Replica
from .server import BINARY, libnbd, run, wait_until
from .test_async import COUNT, peer, prefix, wait_until_even

LARGE = 40 << 20


def grow(replica: Replica, size: int = LARGE) -> str:
    with replica.backing.open("r+b") as file:
        file.truncate(size)
    return run(BINARY, "resize", "--backing", replica.backing, "--metadata", replica.metadata)


def size(replica: Replica) -> int:
    return int(run("nbdinfo", "--size", replica.uri()))


def test_resize_the_standby_first_then_the_other(pair):
    a, b = pair
    before = a.backing.stat().st_size
    b.follow()
    a.lead(b)
    a.hears("in sync with")
    libnbd(a.uri(), "h.pwrite(b'1' * 65536, 1 << 20)")
    # The standby: it follows with more than the leader has.
    b.end()
    libnbd(a.uri(), "h.pwrite(b'2' * 65536, 2 << 20)")
    told = grow(b)
    assert f"a volume of {LARGE} bytes, {before} before" in told, told
    with b.backing.open("r+b") as file:  # what a disk has that was somebody else's: nobody has compared it
        file.seek(LARGE - CHUNK)
        file.write(b"junk" * 1024)
    b.follow()
    a.hears("in sync with")
    assert (size(a), b.status()["volumes"][0]["bytes"]) == (before, LARGE)
    # It takes over, and its clients see all of it. Who has not grown does not follow.
    a.end()
    b.end()
    a.follow()
    b.lead(a)
    assert size(b) == LARGE
    libnbd(b.uri(), f"h.pwrite(b'3' * 65536, {LARGE} - 131072)")
    assert peer(b)["state"] != "in step"
    # The other one.
    a.end()
    grow(a)
    a.follow()
    b.hears("in sync with")
    libnbd(b.uri(), "assert h.pread(65536, 1 << 20) == b'1' * 65536 and h.pread(65536, 2 << 20) == b'2' * 65536")
    assert (a.end(), b.end()) == (0, 0)
    assert a.backing.stat().st_size == LARGE and filecmp.cmp(a.backing, b.backing, shallow=False)
    # What was hot as they ended is left, and not what was gained.
    assert max(a.differing_chunks(), b.differing_chunks()) < (LARGE - before) // CHUNK


def test_resize_says_what_it_does_not_do(pair):
    a, b = pair
    told = run(BINARY, "resize", "--backing", a.backing, "--metadata", a.metadata)
    assert "as before" in told, told
    a.follow()
    assert "is in use" in (told := run(BINARY, "resize", "--backing", a.backing, "--metadata", a.metadata, code=1)), told
    a.end()
    with a.backing.open("r+b") as file:
        file.truncate(1 << 20)
    told = run(BINARY, "resize", "--backing", a.backing, "--metadata", a.metadata, code=1)
    assert "a volume never is: give it its size back" in told, told


def test_discard_copies_aside_what_only_that_side_has_and_it_is_resynced(folder, pair):
    a, b = pair
    b.follow("--async")
    a.lead(b)
    wait_until_even(a)
    libnbd(a.uri(), COUNT.format(first=1, end=100))
    wait_until_even(a)
    b.end()
    libnbd(a.uri(), COUNT.format(first=100, end=300))
    a.kill()
    assert prefix(b) < 299
    a.follow()
    b.lead(a)
    wait_until("b finds two histories", lambda: peer(b)["state"] == "diverged", 20)
    libnbd(b.uri(), "h.pwrite(b'x' * 65536, 8 << 20)")
    a.end()
    lost = a.backing.read_bytes()
    aside = folder / "aside"
    discard = ("discard", "--backing", a.backing, "--metadata", a.metadata, "--aside", aside)
    told = run(BINARY, *discard, code=1)
    assert "no other replica has is given up" in told and "nothing was done" in told and not aside.exists(), told
    run(BINARY, *discard, "--yes")
    # Every number that only this side had is there, at its place.
    kept = aside.read_bytes()
    first = prefix(b) + 1
    assert kept[first * 4096 : 300 * 4096] == lost[first * 4096 : 300 * 4096] != b.backing.read_bytes()[first * 4096 : 300 * 4096]
    for line in (folder / "aside.chunks").read_text().splitlines():
        volume, at, count, digest = line.split()
        chunk = kept[int(at) : int(at) + int(count)]
        assert volume == "0" and hashlib.sha256(chunk).hexdigest() == digest and chunk == lost[int(at) : int(at) + int(count)]
    # It follows again, and is what the other is.
    a.follow()
    b.hears("in sync with")
    assert (b.end(), a.end()) == (0, 0)
    assert filecmp.cmp(a.backing, b.backing, shallow=False)
    assert "completed nothing as leader" in run(BINARY, *discard, "--yes", code=1)
