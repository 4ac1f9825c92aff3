"""One failover in steps, read off the audit log and the client: every call is stamped where it was applied, by one clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Iterable

from .answers import Answer, first_answer

STEPS = ("detected", "nominated", "accepted", "activated", "routes moved", "first answer")


@dataclass(frozen=True)
class Step:
    what: str  # one of STEPS
    at: float  # seconds since the story's beginning
    detail: str


def monotonic(wall: float) -> float:
    """The audit log's wall clock as CLOCK_MONOTONIC; good on one machine within one short story."""
    return wall - (time.time() - time.monotonic())


def read(audit: Iterable[dict[str, Any]], client: Iterable[Answer], began: float, cluster: str, node: str) -> list[Step]:
    """The steps by which `node` took over from `began` (CLOCK_MONOTONIC) on; those that did not happen are left out."""
    steps: dict[str, Step] = {}
    moved: set[str] = set()
    for entry in audit:
        at = monotonic(entry["time"]) - began
        if at < 0 or not entry["applied"] or entry["error"]:
            continue
        params = entry["params"]
        if entry["action"] == "PutEvents":
            for event in params.get("entries", []):
                if event["detail_type"] in ("Holder Suspected", "Handover Requested", "Resource Failed"):
                    steps.setdefault("detected", Step("detected", at, f"{event['detail_type']} by {_who(entry)}"))
        elif entry["action"] == "UpdateItem" and params.get("key") == {"cluster": cluster, "item": "lease"}:
            written = params.get("written", {})
            nominee, holder = written.get("nominee"), written.get("holder")
            if isinstance(nominee, dict) and nominee.get("node") == node:
                steps.setdefault("nominated", Step("nominated", at, f"{node} by {nominee.get('rule', '?')} ({nominee.get('reason', '')})"))
            if isinstance(written.get("intent"), dict):
                steps.setdefault("detected", Step("detected", at, f"{written['intent'].get('rule', '?')} asks to move to {written['intent'].get('to')}"))
            if isinstance(holder, dict) and holder.get("node") == node:
                steps.setdefault("accepted", Step("accepted", at, f"{node} holds epoch {written.get('epoch')}"))
            if written.get("activated") is True and "accepted" in steps:
                steps.setdefault("activated", Step("activated", at, f"{node} is active"))
        elif entry["action"] in ("ReplaceRoute", "CreateRoute"):
            # A table that a second run writes again was there already.
            if params.get("RouteTableId") not in moved:
                moved.add(params.get("RouteTableId", "?"))
                steps["routes moved"] = Step("routes moved", at, f"{len(moved)} route tables to {node}")
    answered = first_answer(client, node, began)
    if answered is not None:
        steps["first answer"] = Step("first answer", answered - began, f"{node} answers the client")
    return sorted(steps.values(), key=lambda step: step.at)


def rule(audit: Iterable[dict[str, Any]], began: float, cluster: str, node: str) -> str | None:
    """The number of the last rule since `began` that chose `node`: by a nomination, or by asking the holder to move there."""
    found = None
    for entry in audit:
        if entry["applied"] and monotonic(entry["time"]) >= began and entry["params"].get("key") == {"cluster": cluster, "item": "lease"}:
            written = entry["params"].get("written", {})
            for choice, who in (("nominee", "node"), ("intent", "to")):
                chosen = written.get(choice)
                if isinstance(chosen, dict) and chosen.get(who) == node and chosen.get("rule"):
                    found = str(chosen["rule"])
    return found


def _who(entry: dict[str, Any]) -> str:
    caller = entry["caller"]
    return caller.get("role") or caller.get("function") or caller.get("kind", "?")
