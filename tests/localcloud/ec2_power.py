"""Instances: states, their events, and the machine behind each (the plane's hooks).

    RunInstances --> pending --> running --StopInstances--> stopping --> stopped --StartInstances--> pending
                                    |                                       |
                                    +--TerminateInstances--> shutting-down --> terminated

A transition's second half waits for the plane (the machine is down) and at least for the knob's time.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import Instance, InstanceBackend, InstanceState, StateReason
from moto.ec2.responses.instances import InstanceResponse

from .events import Events
from .knobs import KnobBoard
from .locks import LOCKS, current_call
from .timeline import Timeline

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class Power:
    def __init__(self, *, knobs: KnobBoard, timeline: Timeline, events: Events, changed: Callable[[], None], log: Callable[..., None]):
        self.knobs, self.timeline, self.events, self.changed, self.log = knobs, timeline, events, changed, log
        self.hook: Callable[[str, str, bool], None] | None = None  # (what, instance id, force): blocks until the machine followed
        self.one_at_a_time: dict[str, threading.Lock] = {}
        self.hook_errors = 0

    def set_state(self, instance: Instance, state: str) -> None:
        """With the EC2 lock held. The event goes out at once; rules run elsewhere."""
        instance._state = InstanceState(state, CODES[state])
        backend = instance.ec2_backend
        arn = f"arn:aws:ec2:{backend.region_name}:{backend.account_id}:instance/{instance.id}"
        self.events.aws_event(backend.region_name, "aws.ec2", "EC2 Instance State-change Notification", [arn],
                              {"instance-id": instance.id, "state": state})  # fmt: skip
        self.changed()

    def follow(self, instance: Instance, what: str, force: bool, least_ms: float, finish: Callable[[], None]) -> None:
        """The second half of a transition, elsewhere: the hook, the least time, then `finish` under the EC2 lock."""
        begun = time.monotonic()

        def go() -> None:
            with self.one_at_a_time.setdefault(instance.id, threading.Lock()):
                if self.hook is not None:
                    try:
                        self.hook(what, instance.id, force)
                    except Exception as error:  # the plane's fault; the API goes on, the health page shows it
                        self.hook_errors += 1
                        self.log("plane hook failed", hook=what, instance=instance.id, error=repr(error))
                rest = least_ms / 1000 - (time.monotonic() - begun)
                if rest > 0:
                    time.sleep(rest)
                with LOCKS["ec2"]:
                    finish()

        threading.Thread(target=go, name=f"power-{instance.id}", daemon=True).start()

    def run(self, instance: Instance) -> None:
        self.set_state(instance, "pending")
        self.follow(instance, "run", False, self.knobs.instance_start_ms, lambda: self._settle(instance, "pending", "running"))

    def start(self, instance: Instance) -> InstanceState:
        before = copy.copy(instance._state)
        if before.name in ("pending", "running"):
            return before
        if before.name != "stopped":
            raise EC2ClientError("IncorrectInstanceState", f"The instance '{instance.id}' is not in a state from which it can be started.")
        instance.launch_time = utcnow()
        instance._reason, instance.state_reason = "", StateReason()
        for nic in instance.nics.values():
            nic.start()
        self.set_state(instance, "pending")
        self.follow(instance, "start", False, self.knobs.instance_start_ms, lambda: self._settle(instance, "pending", "running"))
        return before

    def stop(self, instance: Instance) -> InstanceState:
        before = copy.copy(instance._state)
        if before.name in ("stopping", "stopped"):
            return before
        if before.name != "running":
            raise EC2ClientError("IncorrectInstanceState", f"The instance '{instance.id}' is not in a state from which it can be stopped.")
        self._reason(instance, "Client.UserInitiatedShutdown", "User initiated shutdown")
        self.set_state(instance, "stopping")
        self.follow(instance, "stop", forced(), self.knobs.instance_stop_ms, lambda: self._settle(instance, "stopping", "stopped"))
        return before

    def terminate(self, instance: Instance) -> InstanceState:
        before = copy.copy(instance._state)
        if before.name in ("shutting-down", "terminated"):
            return before
        self._reason(instance, "Client.UserInitiatedShutdown", "User initiated shutdown")
        self.set_state(instance, "shutting-down")
        self.follow(instance, "terminate", forced(), self.knobs.instance_stop_ms, lambda: self._gone(instance))
        return before

    def reboot(self, instance: Instance) -> None:
        if instance.state != "running":
            raise EC2ClientError("IncorrectInstanceState", f"The instance '{instance.id}' is not in a state from which it can be rebooted.")
        self.follow(instance, "reboot", False, 0, lambda: None)

    def powered_off(self, instance: Instance, reason: str) -> None:
        """The guest shut itself down. Takes the EC2 lock."""
        with LOCKS["ec2"]:
            if instance.state != "running":
                return
            self._reason(instance, "Client.InstanceInitiatedShutdown", f"Instance initiated shutdown ({reason})")
            if instance.instance_initiated_shutdown_behavior == "terminate":
                self.set_state(instance, "shutting-down")
                self._gone(instance)
            else:
                self.set_state(instance, "stopping")
                self.set_state(instance, "stopped")

    def _settle(self, instance: Instance, expected: str, state: str) -> None:
        if instance.state == expected:  # else something newer has happened to it
            if state == "stopped":
                for nic in instance.nics.values():
                    nic.stop()
            self.set_state(instance, state)

    def _gone(self, instance: Instance) -> None:
        if instance.state == "terminated":
            return
        ORIGINAL["terminate"](instance)
        for nic in instance.nics.values():
            # moto keeps them attached to the dead instance. `instance.nics` stays: moto's describe needs an address to show.
            nic.instance = nic.attachment_id = nic.attach_time = nic.device_index = None
            nic.status = "available"
        self._reason(instance, "Client.UserInitiatedShutdown", "User initiated shutdown")
        self.set_state(instance, "terminated")

    @staticmethod
    def _reason(instance: Instance, code: str, text: str) -> None:
        instance._reason = f"User initiated ({utcnow().strftime('%Y-%m-%d %H:%M:%S')} GMT)"
        instance.state_reason = StateReason(f"{code}: {text}", code)


ORIGINAL: dict[str, Any] = {}


def forced() -> bool:
    call = current_call()
    return call is not None and any(call.params.get(name, "").lower() == "true" for name in ("Force", "SkipOsShutdown"))


def install(power: Power) -> None:
    ORIGINAL.setdefault("terminate", Instance.terminate)
    ORIGINAL.setdefault("run_instances", InstanceBackend.run_instances)
    Instance.start = lambda self: power.start(self)  # type: ignore[method-assign]
    Instance.stop = lambda self: power.stop(self)  # type: ignore[method-assign]
    Instance.terminate = lambda self: power.terminate(self)  # type: ignore[method-assign]
    Instance.reboot = lambda self: power.reboot(self)  # type: ignore[method-assign]

    def run_instances(self: Any, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any) -> Any:
        specs = kwargs.get("nics") or []
        for nic in specs:
            if not nic.get("NetworkInterfaceId"):
                nic.setdefault("DeleteOnTermination", True)  # AWS's default for interfaces made by RunInstances
        reservation = ORIGINAL["run_instances"](self, image_id, count, user_data, security_group_names, **kwargs)
        for instance in reservation.instances:
            if not specs:
                for nic in instance.nics.values():
                    nic.delete_on_termination = True
            power.run(instance)
        return reservation

    InstanceBackend.run_instances = run_instances  # type: ignore[method-assign]

    # moto answers constants here (an instance that was stopped already is "stopping" again).
    def answer(key: str, method: str) -> Callable[[Any], ActionResult]:
        def respond(self: Any) -> ActionResult:
            changed = getattr(self.ec2_backend, method)(self._get_param("InstanceIds", []))
            return ActionResult({key: [{"InstanceId": i.id, "CurrentState": i._state, "PreviousState": before} for i, before in changed]})

        return respond

    InstanceResponse.stop_instances = answer("StoppingInstances", "stop_instances")  # type: ignore[method-assign]
    InstanceResponse.start_instances = answer("StartingInstances", "start_instances")  # type: ignore[method-assign]
    InstanceResponse.terminate_instances = answer("TerminatingInstances", "terminate_instances")  # type: ignore[method-assign]

    # An instance's source/destination check is its primary interface's.
    def get_check(self: Instance) -> bool:
        nics = self.__dict__.get("nics")
        return nics[0].source_dest_check if nics and 0 in nics else True

    def set_check(self: Instance, value: Any) -> None:
        nics = self.__dict__.get("nics")
        if nics and 0 in nics:
            nics[0].source_dest_check = value if isinstance(value, bool) else str(value).lower() == "true"

    Instance.source_dest_check = property(get_check, set_check)  # type: ignore[method-assign,assignment]
