"""Probers inside the plane: one client that follows the route tables, and one per node that always reaches that node."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from . import answers, prober
from .answers import Answer
from .cloud import Cloud
from .judges import Probed
from .network import Network

PROBER = Path(prober.__file__)


class Client:
    """A host in a subnet whose prober runs from `start` to `stop`."""

    def __init__(self, cloud: Cloud, network: Network, name: str = "client", pin: str | None = None, every_ms: float = 50, timeout_ms: float = 1000):
        """`pin`: the name of the node that the virtual address always leads to from here."""
        self.name = name
        self.url = f"http://{network.virtual_ip}/"
        body = {"name": name, "subnet": network.client_subnet}
        if pin:
            body["pin"] = {f"{network.virtual_ip}/32": network.nodes[pin].instance}  # type: ignore[assignment]
        host = cloud.plane("POST", "hosts", body)
        self.address, self.namespace = host["address"], host["namespace"]
        self.out = cloud.work / f"{name}.jsonl"
        self._tail = answers.Tail(self.out)
        self._every_ms, self._timeout_ms = every_ms, timeout_ms
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Client":
        if self._process is None or self._process.poll() is not None:
            inside = ["nsenter", f"--net=/run/netns/{self.namespace}", "--"]
            command = [sys.executable, str(PROBER), "--url", self.url, "--out", str(self.out), "--every-ms", str(self._every_ms), "--timeout-ms", str(self._timeout_ms)]
            self._process = subprocess.Popen(inside + command, stdin=subprocess.DEVNULL, start_new_session=True)
        return self

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def probed(self, start: float, end: float) -> Probed:
        """Whether it lives, and what it sent from `start` to `end`: more than its time-out ago."""
        alive = self._process is not None and self._process.poll() is None
        return Probed(self.name, alive, len(answers.since(self._tail.read(), start, end)), self._every_ms / 1000)

    def held_up(self, start: float, end: float) -> tuple[float, float]:
        """Seconds in which it was to ask and did not get to, from `start` to `end`: in all, and at most at one time."""
        return answers.held_up(answers.since(self._tail.read(), start, end), self._every_ms / 1000)

    def answers(self, since: float = 0.0) -> list[Answer]:
        """Requests sent since then (CLOCK_MONOTONIC), as far as they have ended."""
        return answers.since(self._tail.read(), since)

    def wait_for(self, who: str | None = None, since: float = 0.0, limit_s: float = 20) -> Answer:
        """The first good answer (of `who`) to a request sent since then."""
        until = time.monotonic() + limit_s
        while True:
            seen = self.answers(since)
            for answer in seen:
                if answer.ok and who in (None, answer.answered_by):
                    return answer
            assert time.monotonic() < until, (
                f"no answer of {who or 'any node'} from {self.url} at {self.name} within {limit_s} s; the last ones: {[(one.answered_by, one.error) for one in seen[-3:]]}"
            )
            time.sleep(0.02)


class Clients:
    """The client and the pinned probers, started and judged together."""

    def __init__(self, cloud: Cloud, network: Network, every_ms: float = 50):
        self.client = Client(cloud, network, "client", every_ms=every_ms)
        self.pinned = {name: Client(cloud, network, f"pinned-{name}", pin=name, every_ms=every_ms) for name in network.nodes}

    def __enter__(self) -> "Clients":
        for one in self.all():
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.all():
            one.stop()

    def all(self) -> list[Client]:
        return [self.client, *self.pinned.values()]

    def pinned_answers(self, since: float = 0.0) -> dict[str, list[Answer]]:
        return {name: one.answers(since) for name, one in self.pinned.items()}
