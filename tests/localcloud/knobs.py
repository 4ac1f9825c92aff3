"""Settings that a test may change while the cloud runs: POST /_localcloud/knobs with any subset of these names."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class Knobs:
    time_scale: float = 1.0  # 60: rate(1 minute) fires each second, and retries that AWS makes after 60 s come after 1 s
    # EventBridge
    event_delay_ms: float = 0.0  # least delay before a target gets an event
    event_delay_spread_ms: float = 0.0  # plus a random part up to this, per delivery: events overtake each other
    event_duplicate_probability: float = 0.0
    event_drop_probability: float = 0.0
    events_outage: bool = False  # PutEvents answers 503; AWS's own events and schedules wait and come when it ends
    # Lambda
    lambda_outage: bool = False  # Invoke answers 503; EventBridge keeps its deliveries and retries when it ends
    lambda_concurrency: int = 32  # invocations at once, all functions together; beyond it: TooManyRequestsException
    lambda_idle_s: float = 900.0  # an idle environment is retired after this long (unscaled)
    lambda_freeze: bool = True  # SIGSTOP between invocations, as AWS freezes environments
    # EC2
    eventual_reads_ms: float = 0.0  # DescribeRouteTables answers the state before a write for this long after it
    route_propagation_ms: float = 0.0  # the plane hears of a change this long after the API answered
    ec2_throttling: bool = False  # EC2's documented token buckets per Region: RequestLimitExceeded beyond them
    instance_start_ms: float = 0.0  # least time in `pending`
    instance_stop_ms: float = 0.0  # least time in `stopping` / `shutting-down`
    # credentials
    session_s: float = 6 * 3600.0  # lifetime of the credentials that IMDS and the Lambda host hand out


class KnobError(ValueError):
    pass


class KnobBoard:
    def __init__(self) -> None:
        self.values = Knobs()
        self.lock = threading.Lock()

    def set(self, changes: dict[str, Any]) -> dict[str, Any]:
        """All or nothing: an unknown name or a value of the wrong kind changes nothing."""
        if not isinstance(changes, dict):
            raise KnobError("knobs are a JSON object of name: value")
        known = {f.name: type(getattr(self.values, f.name)) for f in fields(Knobs)}
        checked: dict[str, Any] = {}
        problems = []
        for name, value in changes.items():
            kind = known.get(name)
            if kind is None:
                problems.append(f"{name}: unknown; known are {', '.join(known)}")
            elif kind is bool:
                if isinstance(value, bool):
                    checked[name] = value
                else:
                    problems.append(f"{name}: {value!r} is not true or false")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                problems.append(f"{name}: {value!r} is not a number of at least 0")
            elif name == "time_scale" and value == 0:
                problems.append("time_scale: must be more than 0")
            else:
                checked[name] = kind(value)
        if problems:
            raise KnobError("; ".join(problems))
        with self.lock:
            for name, value in checked.items():
                setattr(self.values, name, value)
        return self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self.values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["values"], name)
