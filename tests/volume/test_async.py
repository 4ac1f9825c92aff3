"""A process that follows asynchronously: nothing waits for it, and what it holds is always a prefix."""

from __future__ import annotations

import filecmp
import signal
import time

from .replica import Replica
from .server import libnbd, wait_until


def peer(leader: Replica) -> dict:
    return (leader.status()["peers"] or [{"state": None, "lag_ms": None}])[0]


def wait_until_even(leader: Replica) -> None:
    """Until what was completed before now is on the follower, as the leader's status tells."""
    since = time.monotonic()

    def is_even() -> bool:
        # The lag is looked at first: what it says is as of then, or earlier.
        asked, told = time.monotonic(), peer(leader)
        return told["state"] == "following" and told["lag_ms"] is not None and told["lag_ms"] < (asked - since) * 1_000

    wait_until("the follower has all", is_even, 30)


# Numbers, each written in its place and durable before the next is asked.
COUNT = "[h.pwrite((b'%08d' % n) * 512, n * 4096, nbd.CMD_FLAG_FUA) for n in range({first}, {end})]"


def prefix(replica: Replica) -> int:
    """How many numbers from the first on stand there; none stands behind the first that is missing."""
    data = replica.backing.read_bytes()
    found = [data[n * 4096 : (n + 1) * 4096] == (b"%08d" % n) * 512 for n in range(1, len(data) // 4096)]
    count = found.index(False)
    assert not any(found[count:]), "a later write stands there and an earlier one does not"
    return count


def test_async_nothing_waits_for_a_follower_that_stands_still_and_it_is_killed_as_a_prefix(pair):
    a, b = pair
    b.follow("--async")
    a.lead(b)
    wait_until_even(a)
    assert (b.status()["follow"], peer(a)["follow"]) == ("async", "async")
    libnbd(a.uri(), COUNT.format(first=1, end=300))
    wait_until_even(a)
    assert b.process
    b.process.send_signal(signal.SIGSTOP)
    libnbd(a.uri(), COUNT.format(first=300, end=900))
    wait_until("the lag shows", lambda: (peer(a)["lag_ms"] or 0) > 500 and peer(a)["behind_bytes"] > 0, 20)
    b.process.send_signal(signal.SIGCONT)
    b.kill()
    assert 299 <= prefix(b) <= 899
    b.follow("--async")
    wait_until_even(a)
    wait_until("it knows how far it is behind", lambda: (lag := b.status()["lag_ms"]) is not None and lag < 5_000, 20)
    assert (a.end(), b.end()) == (0, 0)
    assert filecmp.cmp(a.backing, b.backing, shallow=False)


def test_async_who_leads_from_a_prefix_and_the_old_leader_keep_both(pair):
    a, b = pair
    b.follow("--async")
    a.lead(b)
    wait_until_even(a)
    libnbd(a.uri(), COUNT.format(first=1, end=500))
    a.kill()
    b.end()
    assert prefix(b) <= 499
    kept = a.backing.read_bytes()
    a.follow()
    b.lead(a)
    wait_until("b finds two histories", lambda: peer(b)["state"] == "diverged", 20)
    libnbd(b.uri(), "h.pwrite(b'x' * 4096, 1 << 20)")
    assert (b.end(), a.end()) == (0, 0)
    assert a.backing.read_bytes() == kept, "what only it has is still there"


def test_async_a_follower_becomes_a_member_and_a_member_a_follower(pair):
    a, b = pair
    b.follow("--async")
    a.lead(b)
    wait_until_even(a)
    b.end()
    libnbd(a.uri(), COUNT.format(first=1, end=50))
    b.follow()
    wait_until("b is a member", lambda: peer(a)["state"] == "in step", 20)
    b.end()
    b.follow("--async")
    libnbd(a.uri(), COUNT.format(first=50, end=99))
    wait_until_even(a)
    assert (a.end(), b.end()) == (0, 0)
    assert filecmp.cmp(a.backing, b.backing, shallow=False)
