"""A plane of its own per test, with nodes a and b running, a client, and an echo server that answers its node's name."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from localcloud.plane import create
from localcloud.plane.tests.fake_cloud import VIP, FakeCloud

ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 7))
print("ready", flush=True)
while True:
    data, sender = server.recvfrom(2048)
    server.sendto(sys.argv[1].encode(), sender)
"""
# Answers to one datagram, asked from an address of choice; "" when none comes.
ASK = """
import socket, sys
target, source, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind((source, 0))
client.settimeout(limit)
client.sendto(b"?", (target, 7))
try:
    # recvfrom, not a connected socket: b answers a datagram for the VIP from its own address when the VIP is not on it
    print(client.recvfrom(2048)[0].decode())
except TimeoutError:
    print("")
"""


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            if "world" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="needs root: network namespaces"))


@dataclass
class World:
    cloud: FakeCloud
    plane: Any

    def ask(self, who: str, target: str = VIP, source: str = "0.0.0.0", limit_s: float = 0.3) -> str:
        done = self.call("POST", f"machines/{who}/exec", {"command": [sys.executable, "-c", ASK, target, source, str(limit_s)]})
        assert done["status"] == 0, done["stderr"]
        return done["stdout"].strip()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.plane.control(method, path, {}, body)
        assert status == 200
        return answer

    def run(self, who: str, *command: str) -> dict[str, Any]:
        return self.call("POST", f"machines/{who}/exec", {"command": list(command)})

    def boot(self, tag: str) -> None:
        """Start the instance as EC2 would, with the echo server and the VIP on it."""
        self.plane.on_run(self.cloud.instance(f"i-{tag}"))

    def dress(self, tag: str) -> None:
        self.call("PUT", f"machines/{tag}/boot", {"start": True, "programs": [
            {"name": "vip", "command": ["ip", "addr", "add", f"{VIP}/32", "dev", "lo"]},
            {"name": "echo", "command": [sys.executable, "-c", ECHO, tag], "restart": "always"}]})


@pytest.fixture
def world(tmp_path):
    cloud = FakeCloud(tmp_path)
    plane = create(cloud)
    try:
        plane.start()
        plane.on_change(cloud.describe())
        world = World(cloud, plane)
        for tag in ("a", "b"):
            world.boot(tag)
            world.dress(tag)
        world.call("POST", "hosts", {"name": "client", "subnet": "subnet-3"})
        for tag, address in (("a", "10.0.1.10"), ("b", "10.0.2.10")):
            for _ in range(100):
                if world.ask("client", address, limit_s=0.1) == tag:
                    break
            else:
                raise AssertionError(f"the echo server of {tag} does not answer")
        yield world
    finally:
        plane.stop()
