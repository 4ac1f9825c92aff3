"""PostgreSQL on a replicated volume whose disks fail, or stand still: nobody is told of a write that is not on both, and the node
whose disk it is does not go on with it.
"""

import time

import pytest

from harness import database

from .database_stage import database_stage, nothing_is_lost, watched

STALL_S = 10  # a disk that has not answered for so long has failed


@pytest.fixture(scope="module")
def data_stage():
    with database_stage("leasehold-disks", breakable=True) as scene:
        yield scene


@pytest.fixture
def data(data_stage):
    with watched(data_stage) as scene:
        yield scene


def _replaced(data, node):
    """The disk works again, and the daemon is started on it. In that order: nobody ends who hangs in a disk."""
    data.disks[node].heal()
    data.cluster.stop(node)
    data.cluster.start(node)
    data.whole_again(90)


def test_writes_to_the_active_nodes_disk_fail(data):
    data.users.wait_for_more(50)
    data.disks[data.active].fail("pwrite")
    data.taken_over(limit_s=30)
    data.users.wait_for_more(20)
    _replaced(data, data.active)
    nothing_is_lost(data)


def test_writes_to_the_standbys_disk_fail(data):
    data.users.wait_for_more(50)
    began = time.monotonic()
    data.disks[data.standby].fail("pwrite")
    data.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    data.users.wait_for_more(50)
    assert data.users.writer.gap(began) < 5
    assert (data.cluster.status().active, data.cluster.status().epoch) == (data.active, data.epoch)
    _replaced(data, data.standby)
    nothing_is_lost(data)


def test_the_active_nodes_disk_stands_still(data):
    data.users.wait_for_more(50)
    data.disks[data.active].stand_still()
    data.taken_over(limit_s=STALL_S + 20)
    data.users.wait_for_more(20)
    _replaced(data, data.active)
    nothing_is_lost(data)


def test_the_standbys_disk_stands_still(data):
    """For shorter than counts as failed, the database waits; for longer, the standby is left behind."""
    data.users.wait_for_more(50)
    data.disks[data.standby].stand_still()
    time.sleep(2)
    data.disks[data.standby].heal()
    data.users.wait_for_more(50)
    data.disks[data.standby].stand_still()
    data.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    data.users.wait_for_more(50)
    assert (data.cluster.status().active, data.cluster.status().epoch) == (data.active, data.epoch)
    _replaced(data, data.standby)
    nothing_is_lost(data)


def test_the_proof_itself_sees_what_is_lost_and_what_differs(data):
    """A judge that cannot find against anybody proves nothing."""
    users = data.users
    users.wait_for_more(50)
    users.stop()
    gone = max(users.writer.acknowledged)
    users.server.query(f"DELETE FROM told WHERE number = {gone}")
    assert users.writer.lost() == {gone}
    users.server.query(f"INSERT INTO told VALUES ({gone})")
    assert users.bank.problems() == []
    users.server.query("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1")
    assert "sums differ" in " ".join(users.bank.problems())
    users.server.query("UPDATE pgbench_accounts SET abalance = abalance - 1 WHERE aid = 1")
    users.bank.acknowledged += 10_000
    assert "pgbench was told of" in " ".join(users.bank.problems())
    one = data.disks[data.standby].image
    images = [disk.image for disk in data.disks.values()]
    assert database.differing(images) == []
    with one.open("r+b") as file:
        file.seek(-8192, 2)
        before = file.read(1)
        file.seek(-8192, 2)
        file.write(bytes([before[0] ^ 1]))
        file.flush()
        assert database.differing(images, limit_s=1) != []
        file.seek(-8192, 2)
        file.write(before)
    assert database.differing(images) == []
