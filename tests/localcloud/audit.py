"""The audit log: every mutating API call, who made it and what came of it. Scenarios check their invariants on it."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import deque
from typing import Any

KEPT = 100_000  # entries; at 5 writes a second more than five hours

READ_PREFIXES = ("Describe", "List", "Get", "Query", "Scan", "BatchGet", "Search", "Head", "Test", "Lookup", "Simulate",
                 "Validate", "Detect", "Filter", "StartQuery", "AssumeRole", "Decode", "TransactGet")  # fmt: skip


def is_mutating(action: str) -> bool:
    return not action.startswith(READ_PREFIXES)


def plain(value: Any) -> Any:
    """A DynamoDB attribute value as plain JSON: {"N": "7"} is 7."""
    if not isinstance(value, dict) or len(value) != 1:
        return value
    kind, inner = next(iter(value.items()))
    if kind == "N":
        return float(inner) if "." in inner or "e" in inner.lower() else int(inner)
    if kind == "M":
        return {k: plain(v) for k, v in inner.items()}
    if kind == "L":
        return [plain(v) for v in inner]
    if kind == "NULL":
        return None
    if kind == "NS":
        return [plain({"N": v}) for v in inner]
    return inner


ASSIGNMENT = re.compile(r"([#\w]+)\s*=\s*(:\w+)")


def written_attributes(params: dict[str, Any]) -> dict[str, Any]:
    """What an UpdateItem's SET clause assigns directly, by real attribute name; for PutItem the whole item."""
    if "Item" in params:
        return {name: plain(value) for name, value in params["Item"].items()}
    names = params.get("ExpressionAttributeNames") or {}
    values = params.get("ExpressionAttributeValues") or {}
    found = {}
    for name, ref in ASSIGNMENT.findall(params.get("UpdateExpression") or ""):
        if ref in values:
            found[names.get(name, name)] = plain(values[ref])
    return found


def key_parameters(service: str, action: str, params: dict[str, Any]) -> dict[str, Any]:
    if service == "dynamodb":
        out: dict[str, Any] = {"table": params.get("TableName")}
        key = params.get("Key")
        if key is None and "Item" in params:
            key = {k: v for k, v in params["Item"].items() if k in ("cluster", "item")}
        if key is not None:
            out["key"] = {k: plain(v) for k, v in key.items()}
        if action in ("UpdateItem", "PutItem"):
            out["written"] = written_attributes(params)
        return out
    if service == "events" and action == "PutEvents":
        return {
            "entries": [
                {"bus": e.get("EventBusName", "default"), "source": e.get("Source"), "detail_type": e.get("DetailType"), "detail": e.get("Detail")}
                for e in params.get("Entries", [])
            ]
        }
    if service == "cloudformation":
        return {k: v for k, v in params.items() if k in ("StackName", "ChangeSetName", "ChangeSetType")}
    return {k: v for k, v in params.items() if not isinstance(v, (bytes, bytearray)) and len(str(v)) <= 2048}


class AuditLog:
    def __init__(self) -> None:
        self.entries: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.sequence = 0
        self.lock = threading.Lock()

    def add(self, *, at: float, caller: dict[str, Any], service: str, region: str, action: str, params: dict[str, Any], status: int,
            error: str | None, applied: bool, fault: str | None = None) -> None:  # fmt: skip
        """`at` is the wall clock when the call was applied; `ended` when its answer was ready."""
        with self.lock:
            self.sequence += 1
            self.entries.append(
                {
                    "seq": self.sequence,
                    "time": at,
                    "ended": time.time(),
                    "caller": caller,
                    "service": service,
                    "region": region,
                    "action": action,
                    "params": key_parameters(service, action, params),
                    "status": status,
                    "error": error,
                    "applied": applied,
                    "fault": fault,
                }
            )

    def after(self, sequence: int) -> list[dict[str, Any]]:
        with self.lock:
            return list(itertools.takewhile(lambda e: e["seq"] > sequence, reversed(self.entries)))[::-1]
