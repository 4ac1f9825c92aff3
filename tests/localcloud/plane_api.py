"""What the AWS side and the packet plane promise each other. Either can be read and tested without the other.

The AWS side owns state (instances, route tables); the plane owns machines and packets. The plane is told of every change
and follows it; it never writes AWS state except by `Cloud.powered_off`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Listeners:
    """Where the AWS side listens inside the plane: sockets are made there by setns, so no link to the root namespace exists."""

    netns: str  # path, e.g. /run/netns/lck3x9-aws
    api_address: str  # on the same port as in the root namespace
    imds_address: str  # port 80


class ControlError(Exception):
    """Raised by `Plane.control`: answered with this HTTP status and text (what happened, where, what to do)."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Cloud(Protocol):
    """What the plane may use. Every method may be called from any thread; none blocks longer than some milliseconds."""

    run: str  # short run id; namespaces are called lc<run>-...
    port: int  # of the API
    state_dir: Path  # private to this run, removed at exit

    def describe(self) -> dict[str, Any]:
        """The snapshot as of now (its shape: README.md, "Snapshot"). True state: no eventual-read delay."""

    def instance(self, instance_id: str) -> dict[str, Any] | None:
        """One instance's entry with its "region", or None."""

    def powered_off(self, instance_id: str, reason: str) -> None:
        """The guest shut itself down: the state becomes stopped (or terminated, per
        InstanceInitiatedShutdownBehavior) and the event goes out. No `on_stop` follows."""

    def log(self, text: str, **fields: Any) -> None:
        """One JSON line on stderr."""


class Plane(Protocol):
    def start(self) -> Listeners:
        """Once, before the ready line."""

    def stop(self) -> None:
        """Remove everything. Idempotent; also called after a failed start."""

    def on_change(self, snapshot: dict[str, Any]) -> None:
        """After EC2 changed. One call at a time; only the newest snapshot is delivered."""

    # Power hooks: each in a thread of its own with no lock held; may block; never two at once for one instance.
    def on_run(self, instance: dict[str, Any]) -> None: ...
    def on_start(self, instance: dict[str, Any]) -> None: ...
    def on_stop(self, instance: dict[str, Any], force: bool) -> None: ...
    def on_terminate(self, instance: dict[str, Any], force: bool) -> None: ...
    def on_reboot(self, instance: dict[str, Any]) -> None: ...

    def control(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Every request below /_localcloud/plane/: answers (status, JSON-able). May raise ControlError."""
