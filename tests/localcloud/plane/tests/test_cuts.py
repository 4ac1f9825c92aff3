"""Partitions by name, one way and both, and their end."""

import pytest

from localcloud.plane_api import ControlError


def reaches(world, who, address):
    return world.run(who, "ping", "-c1", "-W1", address)["status"] == 0


def test_a_node_is_cut_from_aws_and_healed(world):
    world.call("POST", "cuts", {"between": ["a", "aws"]})
    assert not reaches(world, "a", "10.254.0.2")
    assert reaches(world, "b", "10.254.0.2") and world.ask("client") == "a"
    assert reaches(world, "a", "169.254.169.254")  # answered by the hypervisor
    world.call("DELETE", "cuts")
    assert reaches(world, "a", "10.254.0.2")


def test_peers_are_cut_and_clients_are_not(world):
    world.call("POST", "cuts", {"between": ["a", "b"]})
    assert world.ask("a", "10.0.2.10") == "" and world.ask("b", "10.0.1.10") == ""
    assert world.ask("client", "10.0.1.10") == "a" and world.ask("client", "10.0.2.10") == "b"


def test_one_way_lets_the_other_direction_pass(world):
    world.call("POST", "cuts", {"from": "a", "to": "b"})
    capture = "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 9)); s.settimeout(%s); print(s.recvfrom(9)[0].decode())"
    send = "import socket,time\ns=socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor _ in range(10):\n s.sendto(b'hello', ('%s', 9)); time.sleep(0.1)"
    import sys
    import threading

    def hears(listener, speaker, address):
        thread = threading.Thread(target=world.run, args=(speaker, sys.executable, "-c", send % address))
        thread.start()
        heard = world.run(listener, sys.executable, "-c", capture % 1.2)["stdout"].strip()
        thread.join()
        return heard == "hello"

    assert not hears("b", "a", "10.0.2.10")
    assert hears("a", "b", "10.0.1.10")


def test_a_node_is_cut_from_everything(world):
    ids = world.call("POST", "cuts", {"between": ["i-a", "*"]})["ids"]
    assert world.ask("client", "10.0.1.10") == "" and not reaches(world, "a", "10.0.2.10") and not reaches(world, "a", "10.254.0.2")
    for one in ids:
        world.call("DELETE", f"cuts/{one}")
    assert world.ask("client", "10.0.1.10") == "a"


def test_a_cut_survives_a_restart_of_the_instance(world):
    world.call("POST", "cuts", {"between": ["a", "aws"]})
    world.plane.on_reboot(world.cloud.instance("i-a"))
    assert not reaches(world, "a", "10.254.0.2") and reaches(world, "a", "10.0.2.10")


def test_an_unknown_name_is_refused_and_nothing_is_cut(world):
    with pytest.raises(ControlError, match="nothing is named 'zebra'.*client"):
        world.call("POST", "cuts", {"between": ["a", "zebra"]})
    assert world.call("GET", "")["cuts"] == {}
