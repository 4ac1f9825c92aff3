"""What an operator does with the volumes of a running cluster: `leasehold volume verify`, `resync` and `forget-peer`, on the node that
leads, while it is written to.
"""

import json
import re
import subprocess
import time

import pytest

from harness import database, volumes

from .volume_stage import count, volume_stage, watched

SPOILT = 1_500  # a chunk behind all that is written here


@pytest.fixture(scope="module")
def near_stage():
    with volume_stage("leasehold-near") as scene:
        yield scene


@pytest.fixture
def near(near_stage):
    with watched(near_stage) as scene:
        yield scene


def flip(path, offset):
    """A bit of what is on the disk, behind the back of whoever has it open."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def ask(scene, *words, code=0, node=None):
    return volumes.ask(scene.cluster, node or scene.active, "volume", *words, code=code)


def verified(scene, code=0):
    return json.loads(ask(scene, "verify", "data", "--watch", "--json", code=None if code else 0))


def equal(scene):
    return database.differing([volumes.image(scene.cluster, node) for node in (scene.active, scene.standby)], 20) == []


def in_step(scene):
    return volumes.peer(scene.cluster, scene.active)["state"] == "in step"


def test_one_flipped_bit_on_the_standbys_disk_is_found_alarms_and_is_mended_when_asked(near):
    counter = count(near, near.active)
    counter.wait_for_more(100)
    assert verified(near)["same"] is True, "writes under way are no difference"
    here, there = (volumes.image(near.cluster, node) for node in (near.active, near.standby))
    flip(there, SPOILT * volumes.CHUNK + 4_711)
    told = ask(near, "verify", "--watch", code=2)
    # It takes part until the row has it out of the set, which may be before the end.
    assert re.search(rf"{near.standby}: (cut off|whole), .* 1 chunks DIFFER", told), told
    assert f"data at {SPOILT * volumes.CHUNK}, {volumes.CHUNK} bytes: here " in told, told
    # It alarms: in the log, in the metrics, on the screen.
    log = near.logs()[near.active]
    assert re.search(rf'ERROR .*a replica in step differs.*volume="?data"?.*offset={SPOILT * volumes.CHUNK}\b', volumes.plain(log)), log[-4_000:]
    assert volumes.metric(near.cluster, near.active, "volumes_differing_chunks_total") == [1.0]
    screen = volumes.ask(near.cluster, near.active, "status", code=2)
    assert f"!! {near.standby} and this node differ" in screen and f"leasehold volume resync {near.standby}" in screen, screen
    # Nobody fails over to it, nothing is copied over it, and the writes go on.
    near.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    spoilt = there.read_bytes()[SPOILT * volumes.CHUNK :][: volumes.CHUNK]
    answer = near.cluster.invoke("switchover", to=near.standby)
    assert answer["error"]["code"] == "refused" and "not in sync" in json.dumps(answer), answer
    counter.wait_for_more(100)
    time.sleep(1)
    assert there.read_bytes()[SPOILT * volumes.CHUNK :][: volumes.CHUNK] == spoilt
    # It is mended when somebody says so, and not before.
    assert "nothing was done" in ask(near, "resync", near.standby, code=1)
    ask(near, "resync", near.standby, "--yes")
    near.cluster.wait_until("both in sync", lambda status: status.in_sync == 2, 60)
    assert verified(near)["same"] is True
    assert here.read_bytes()[SPOILT * volumes.CHUNK :][: volumes.CHUNK] == there.read_bytes()[SPOILT * volumes.CHUNK :][: volumes.CHUNK] != spoilt
    counter.stop()
    assert equal(near)
    volumes.ask(near.cluster, near.active, "status")


def test_what_the_standby_is_asked_for_is_refused_with_the_reason(near):
    volumes.wait("in step", lambda: in_step(near))
    for words in (["verify"], ["resync", near.active, "--yes"]):
        told = ask(near, *words, code=1, node=near.standby)
        assert "does not lead" in told, told
    assert 'there is no volume "log" here; there are: data' in ask(near, "verify", "log", code=1)
    assert f"it knows {near.standby}" in ask(near, "resync", "nobody", "--yes", code=1)


def test_a_member_is_resynced_under_load_and_the_service_goes_on(near):
    counter = count(near, near.active)
    counter.wait_for_more(100)
    ask(near, "resync", near.standby, "--yes")
    near.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    near.cluster.wait_until("both in sync", lambda status: status.in_sync == 2, 60)
    counter.wait_for_more(100)
    assert (near.cluster.status().active, near.cluster.status().epoch) == (near.active, near.epoch)
    counter.stop()
    assert equal(near)


def test_a_replica_that_is_gone_is_forgotten_and_compared_as_a_whole_when_it_comes_back(near):
    counter = count(near, near.active)
    counter.wait_for_more(100)
    replica = volumes.peer(near.cluster, near.active)["incarnation"]
    assert "is a member" in ask(near, "forget-peer", replica, "--yes", code=1)
    near.cluster.stop(near.standby)
    near.cluster.wait_until("the standby out of the set", lambda status: status.in_sync == 1)
    counter.wait_for_more(100)
    assert "nothing was done" in ask(near, "forget-peer", replica, code=1)
    ask(near, "forget-peer", replica, "--yes")
    volumes.wait("it is forgotten", lambda: volumes.status(near.cluster, near.active)["peers"] == [])
    # What it lacks is not remembered, and is found all the same.
    near.cluster.start(near.standby)
    near.cluster.wait_until("both in sync", lambda status: status.in_sync == 2, 60)
    counter.stop()
    assert equal(near)


def test_a_volume_grows_on_one_node_after_the_other_and_is_served_meanwhile(near):
    """The standby first; its clients see the new size from the switchover on; the other one follows when it has grown, too."""
    large = volumes.VOLUME_BYTES + (32 << 20)

    def size(node):
        done = subprocess.run(["nbdinfo", "--size", volumes.uri(near.cluster, node)], check=True, capture_output=True, text=True)
        return int(done.stdout)

    def grow(node):
        near.cluster.stop(node)
        with volumes.image(near.cluster, node).open("r+b") as file:
            file.truncate(large)
        told = volumes.offline(near.cluster, node, "resize")
        assert f"a volume of {large} bytes, {volumes.VOLUME_BYTES} before" in told, told
        near.cluster.start(node)

    counter = count(near, near.active)
    counter.wait_for_more(100)
    began = time.monotonic()
    grow(near.standby)
    near.cluster.wait_until("out of the set, and back", lambda status: status.in_sync == 2 and in_step(near), 60)
    assert counter.gap(began) < 5 and size(near.active) == volumes.VOLUME_BYTES
    answer = near.cluster.invoke("switchover", to=near.standby)
    assert answer["outcome"] == "completed", answer
    near.cluster.wait_serving(near.standby, above_epoch=near.epoch)
    told = counter.stop()
    volumes.wait("the new size is served", lambda: size(near.standby) == large)
    assert volumes.prefix(volumes.image(near.cluster, near.standby), counter) >= told
    # Who has not grown is no member, and nobody waits for it.
    near.cluster.wait_until("the smaller one out of the set", lambda status: status.in_sync == 1)
    volumes.wait("why is told", lambda: "`leasehold volume resize` makes a volume larger" in near.logs()[near.standby])
    later = count(near, near.standby)
    later.wait_for_more(100)
    grow(near.active)
    near.cluster.wait_until("both in sync", lambda status: status.in_sync == 2, 60)
    later.wait_for_more(100)
    later.stop()
    assert equal(near)
    near.cluster.kill(near.standby, everything=True, hold=True)
    near.cluster.wait_serving(near.active, above_epoch=near.cluster.status().epoch)
    volumes.wait("the new size is served", lambda: size(near.active) == large)
    near.cluster.start(near.standby)
