"""Packets follow ReplaceRoute, per route table, without losing one."""

import sys
import time

from localcloud.plane.tests.fake_cloud import VIP

# Asks every 2 ms and prints what came back; counts the datagrams without an answer.
STREAM = """
import socket, sys, time, threading
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind(("0.0.0.0", 0))
client.settimeout(0.5)
sent, answers = 0, []
def read():
    while True:
        try:
            answers.append(client.recvfrom(100)[0].decode())
        except TimeoutError:
            return
reader = threading.Thread(target=read); reader.start()
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    client.sendto(b"?", (sys.argv[1], 7)); sent += 1
    time.sleep(0.002)
reader.join()
print(sent, len(answers), ",".join(name for i, name in enumerate(answers) if i == 0 or answers[i - 1] != name))
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


def test_no_datagram_is_lost_in_twenty_moves(world):
    import threading

    out = {}
    thread = threading.Thread(target=lambda: out.update(world.run("client", sys.executable, "-c", STREAM, VIP, "2")))
    thread.start()
    time.sleep(0.4)
    took = []
    for move in range(20):
        began = time.monotonic()
        world.cloud.replace_route(world.plane, "eni-b" if move % 2 == 0 else "eni-a")
        took.append(time.monotonic() - began)
        time.sleep(0.05)
    thread.join()
    sent, answered, path = out["stdout"].split()
    assert sent == answered, f"{int(sent) - int(answered)} of {sent} lost"
    assert path.startswith("a,b,a,b") and len(path.split(",")) == 21
    assert sorted(took)[10] < 0.1, f"moves took {took}"


def test_a_pinned_host_reaches_its_node_whatever_the_tables_say(world):
    world.call("POST", "hosts", {"name": "pinned-b", "subnet": "subnet-3", "pin": {f"{VIP}/32": "b"}})
    assert (world.ask("client"), world.ask("pinned-b")) == ("a", "b")


def test_instances_see_the_services_and_only_them(world):
    assert world.run("a", "ping", "-c1", "-W1", "169.254.169.254")["status"] == 0
    assert world.run("client", "ping", "-c1", "-W1", "10.254.0.2")["status"] == 0
    assert world.run("client", "ping", "-c1", "-W1", "10.254.1.2")["status"] != 0
