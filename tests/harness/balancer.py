"""A network load balancer's stand-in: HAProxy in a host of the plane, told to check, to mark and to fail open as AWS documents of NLBs.

Health checks each 5 s, two in a row decide; connections to a target that is marked unhealthy are ended; and where every target is
unhealthy, it sends to all of them.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from .cloud import Cloud
from .network import Network

INTERVAL_S = 5  # the least that an NLB takes
THRESHOLD = 2

CONFIG = """\
global
    stats socket {socket} mode 600
defaults
    mode tcp
    timeout connect 2s
    timeout client 60s
    timeout server 60s
frontend service
    bind :{service}
    use_backend everybody if {{ nbsrv(healthy) eq 0 }}
    default_backend healthy
backend healthy
    option redispatch
    {check}
    default-server check port {health} inter {interval}s fastinter {interval}s downinter {interval}s fall {threshold} rise {threshold} on-marked-down shutdown-sessions
{servers}
backend everybody
    balance roundrobin
{servers}
"""


class Balancer:
    """`http`: health checks by HTTP instead of TCP."""

    def __init__(self, cloud: Cloud, network: Network, service: int, health: int, http: bool = False):
        host = cloud.plane("POST", "hosts", {"name": "balancer", "subnet": network.client_subnet})
        self.address, self.namespace = host["address"], host["namespace"]
        self._socket = Path(cloud.work) / "balancer.sock"
        config = Path(cloud.work) / "balancer.cfg"
        servers = "\n".join(f"    server {node.name} {node.address}:{service}" for node in network.nodes.values())
        check = "option httpchk GET /health" if http else "option tcp-check"
        config.write_text(CONFIG.format(socket=self._socket, service=service, health=health, check=check, interval=INTERVAL_S, threshold=THRESHOLD, servers=servers))
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}", "--"]
        self._process = subprocess.Popen([*inside, "haproxy", "-db", "-f", str(config)], stdin=subprocess.DEVNULL,
                                         stdout=(Path(cloud.work) / "balancer.log").open("wb"), stderr=subprocess.STDOUT)  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://{self.address}/"

    def wait_healthy(self, only: str, limit_s: float) -> None:
        """Until `only` is its one healthy target."""
        until = time.monotonic() + limit_s
        while self.healthy() != {only}:
            assert time.monotonic() < until, f"healthy after {limit_s} s: {self.healthy() or 'none'}; expected: {only} alone"
            time.sleep(0.2)

    def healthy(self) -> set[str]:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self._socket))
            asked.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: asked.recv(65536), b"")).decode()
        rows = [line.split(",") for line in answer.splitlines() if line.startswith("healthy,")]
        return {row[1] for row in rows if row[1] not in ("FRONTEND", "BACKEND") and row[17].startswith("UP")}

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
