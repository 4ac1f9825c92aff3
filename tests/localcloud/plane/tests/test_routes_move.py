"""Packets follow ReplaceRoute, per route table, without losing one."""

import sys
import threading
import time

from localcloud.plane.tests.fake_cloud import VIP

# Asks every 2 ms until the file `end` exists, appends each new answerer to the file `path`, and prints how many asked and answered.
STREAM = """
import os, socket, sys, threading, time
vip, folder = sys.argv[1:]
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind(("0.0.0.0", 0))
client.settimeout(0.5)
sent, answered, ended = 0, 0, False
def read():
    global answered
    last = None
    while True:
        try:
            name = client.recvfrom(100)[0].decode()
        except TimeoutError:
            if ended:
                return
            continue
        answered += 1
        if name != last:
            with open(os.path.join(folder, "path"), "a") as path:
                path.write(name)
            last = name
reader = threading.Thread(target=read); reader.start()
while not os.path.exists(os.path.join(folder, "end")):
    client.sendto(b"?", (vip, 7)); sent += 1
    time.sleep(0.002)
ended = True
reader.join()
print(sent, answered)
"""


def test_a_route_moves_with_replace_route(world):
    assert world.ask("client") == "a"
    world.cloud.replace_route(world.plane, "eni-b")
    assert world.ask("client") == "b"


def test_each_subnet_follows_its_own_table(world):
    world.call("POST", "hosts", {"name": "other", "subnet": "subnet-1"})
    world.cloud.replace_route(world.plane, "eni-b", tables=("rtb-client",))
    assert world.ask("client") == "b"
    assert world.ask("other") == "a"


def test_a_moved_table_association_moves_the_subnet(world):
    world.cloud.replace_route(world.plane, "eni-b", tables=("rtb-main",))
    assert world.ask("client") == "a"
    world.cloud.now["regions"]["ap-northeast-1"]["route_tables"][1]["subnets"] = []
    world.cloud.changed(world.plane)
    assert world.ask("client") == "b"


def test_no_datagram_is_lost_in_twenty_moves(world, tmp_path):
    out = {}
    stream = threading.Thread(target=lambda: out.update(world.run("client", sys.executable, "-c", STREAM, VIP, str(tmp_path))))
    stream.start()
    took = []
    try:
        length = answered_by(tmp_path, "a", 0)
        for move in range(1, 21):
            began = time.monotonic()
            world.cloud.replace_route(world.plane, "eni-b" if move % 2 else "eni-a")
            took.append(time.monotonic() - began)
            length = answered_by(tmp_path, "ab"[move % 2], length)
    finally:
        (tmp_path / "end").touch()
        stream.join()
    sent, answered = map(int, out["stdout"].split())
    assert sent == answered, f"{sent - answered} of {sent} lost"
    assert min(took) < 0.1, f"moves took {took}"


def answered_by(folder, name, length):
    """Wait until `name` is the latest of more than `length` answerers; how many there are then. (A busy one may answer late.)"""
    path, deadline = folder / "path", time.monotonic() + 10
    while True:
        seen = path.read_text() if path.exists() else ""
        if len(seen) > length and seen.endswith(name):
            return len(seen)
        assert time.monotonic() < deadline, f"answered in turn by {seen!r}, and not by {name} in 10 s"
        time.sleep(0.01)


def test_a_pinned_host_reaches_its_node_whatever_the_tables_say(world):
    world.call("POST", "hosts", {"name": "pinned-b", "subnet": "subnet-3", "pin": {f"{VIP}/32": "b"}})
    assert (world.ask("client"), world.ask("pinned-b")) == ("a", "b")


def test_instances_see_the_services_and_only_them(world):
    assert world.run("a", "ping", "-c1", "-W1", "169.254.169.254")["status"] == 0
    assert world.run("client", "ping", "-c1", "-W1", "10.254.0.2")["status"] == 0
    assert world.run("client", "ping", "-c1", "-W1", "10.254.1.2")["status"] != 0
