"""Faults that a test switches on: which calls are hit, and what happens to them.

    client --> [refuse] --> [throttle|error|drop|delay|pause|kill_caller|lambda_detach] --> applied --> [drop_after] --> answer

A rule matches by globs on service, Region, action, caller and parameters; each `count` matching calls at most, after
`skip` calls let through, each with `probability`. The first rule that fires wins.
"""

from __future__ import annotations

import fnmatch
import itertools
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "throttle": "refused with the service's throttling error, not applied",
    "error": "refused with `status` (500) and `code` (InternalFailure), not applied",
    "drop": "not applied, never answered: the client runs into its time-out",
    "drop_after": "applied, never answered: an unknown outcome",
    "delay": "applied after `delay_ms`",
    "refuse": "the connection is reset: an outage",
    "pause": "held before it is applied, until released; not applied if the caller has gone by then",
    "kill_caller": "the calling Lambda environment is killed at this call (`when`: before (default) or after it is applied)",
    "lambda_detach": "the calling Lambda environment is killed, the call held and applied when released: a late write of a dead run",
    # For service `events`, action `Deliver` (one call per event and target; params: source, detail-type, rule, function):
    "duplicate": "the event is delivered `copies` (2) times",
}
DELIVER_KINDS = {"drop", "delay", "duplicate"}
MAX_HOLD_S = 600  # a held or unanswered call is let go after this: no thread may wait for ever


class FaultError(ValueError):
    pass


@dataclass
class Held:
    """A call that waits at a rule."""

    seq: int
    call: dict[str, Any]
    since: float
    released: threading.Event = field(default_factory=threading.Event)


@dataclass
class Rule:
    id: str
    kind: str
    service: str = "*"
    region: str = "*"
    action: str = "*"
    caller: str = "*"
    params: dict[str, str] = field(default_factory=dict)
    count: int | None = None
    skip: int = 0
    probability: float = 1.0
    delay_ms: float = 0.0
    status: int = 500
    code: str = "InternalFailure"
    when: str = "before"
    copies: int = 2
    note: str = ""
    seen: int = 0
    hits: int = 0
    held: list[Held] = field(default_factory=list)
    removed: bool = False

    def matches(self, service: str, region: str, action: str, callers: list[str], params: dict[str, Any]) -> bool:
        return (
            fnmatch.fnmatchcase(service, self.service)
            and fnmatch.fnmatchcase(region, self.region)
            and fnmatch.fnmatchcase(action, self.action)
            and any(fnmatch.fnmatchcase(name, self.caller) for name in callers)
            and all(_param_matches(params.get(name), pattern) for name, pattern in self.params.items())
        )

    def describe(self) -> dict[str, Any]:
        out = {k: v for k, v in self.__dict__.items() if k not in ("held", "removed")}
        out["held"] = [{"seq": h.seq, "held_s": round(time.time() - h.since, 3), **h.call} for h in self.held]
        return out


def _param_matches(value: Any, pattern: str) -> bool:
    if value is None:
        return False
    return fnmatch.fnmatchcase(value if isinstance(value, str) else str(value), pattern)


SETTABLE = {"kind", "service", "region", "action", "caller", "params", "count", "skip", "probability", "delay_ms", "status", "code", "when",
            "copies", "note"}  # fmt: skip


class Faults:
    def __init__(self, seed: int | None = None) -> None:
        self.rules: dict[str, Rule] = {}
        self.lock = threading.Lock()
        self.ids = itertools.count(1)
        self.calls = itertools.count(1)
        self.random = random.Random(seed)

    def add(self, spec: Any) -> Rule:
        if not isinstance(spec, dict):
            raise FaultError("a fault rule is a JSON object")
        unknown = set(spec) - SETTABLE
        if unknown:
            raise FaultError(f"unknown fields {sorted(unknown)}; known are {sorted(SETTABLE)}")
        kind = spec.get("kind")
        if kind not in KINDS:
            raise FaultError(f"kind {kind!r}; allowed: " + "; ".join(f"{k} ({v})" for k, v in KINDS.items()))
        if spec.get("when", "before") not in ("before", "after"):
            raise FaultError(f"when {spec['when']!r}; allowed: before, after")
        if kind == "duplicate" and (spec.get("service"), spec.get("action")) != ("events", "Deliver"):
            raise FaultError("kind duplicate is only for service events, action Deliver")
        if spec.get("action") == "Deliver" and kind not in DELIVER_KINDS:
            raise FaultError(f"kind {kind} is not for action Deliver; allowed there: {sorted(DELIVER_KINDS)}")
        if not all(isinstance(spec.get(k, ""), str) for k in ("service", "region", "action", "caller", "code", "note")):
            raise FaultError("service, region, action, caller, code and note are strings")
        params = spec.get("params", {})
        if not isinstance(params, dict) or not all(isinstance(v, str) for v in params.values()):
            raise FaultError("params is an object of parameter name: glob")
        with self.lock:
            rule = Rule(id=f"f{next(self.ids)}", **spec)
            self.rules[rule.id] = rule
        return rule

    def remove(self, rule_id: str | None) -> int:
        """Removes one rule, or all; what they hold is released."""
        with self.lock:
            if rule_id is None:
                gone = list(self.rules.values())
            else:
                if rule_id not in self.rules:
                    raise FaultError(f"no fault rule {rule_id}; there are {sorted(self.rules)}")
                gone = [self.rules[rule_id]]
            for rule in gone:
                del self.rules[rule.id]
                rule.removed = True
                for held in rule.held:
                    held.released.set()
        return len(gone)

    def release(self, rule_id: str, count: int | None = None) -> int:
        """Lets the oldest `count` held calls (default: all) go on. The rule stays; spent rules hold no more."""
        with self.lock:
            if rule_id not in self.rules:
                raise FaultError(f"no fault rule {rule_id}; there are {sorted(self.rules)}")
            waiting = [h for h in self.rules[rule_id].held if not h.released.is_set()]
            for held in waiting[: count if count is not None else len(waiting)]:
                held.released.set()
        return len(waiting if count is None else waiting[:count])

    def pick(self, service: str, region: str, action: str, callers: list[str], params: dict[str, Any]) -> Rule | None:
        if not self.rules:
            return None
        with self.lock:
            for rule in self.rules.values():
                if rule.count is not None and rule.hits >= rule.count:
                    continue
                if not rule.matches(service, region, action, callers, params):
                    continue
                rule.seen += 1
                if rule.seen <= rule.skip or (rule.probability < 1 and self.random.random() >= rule.probability):
                    continue
                rule.hits += 1
                return rule
        return None

    def hold(self, rule: Rule, call: dict[str, Any]) -> None:
        """Returns when the call is released (or after MAX_HOLD_S)."""
        held = Held(next(self.calls), call, time.time())
        with self.lock:
            if rule.removed:
                return
            rule.held.append(held)
        held.released.wait(MAX_HOLD_S)
        with self.lock:
            rule.held.remove(held)

    def describe(self) -> list[dict[str, Any]]:
        with self.lock:
            return [rule.describe() for rule in self.rules.values()]
