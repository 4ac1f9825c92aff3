"""EC2's token buckets, per Region, with the numbers that the EC2 API reference documents for an account's defaults."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from .audit import is_mutating


@dataclass(frozen=True)
class Limit:
    burst: float  # bucket size, tokens
    refill: float  # tokens per second


MUTATING = Limit(50, 5)
FILTERED = Limit(100, 20)  # describes with a filter, ids or pages
UNFILTERED = Limit(50, 10)


def limit_of(action: str, params: dict[str, Any]) -> tuple[str, Limit]:
    if is_mutating(action):
        return "mutating", MUTATING
    narrowed = any(re.match(r"(Filter\.|MaxResults$|[A-Za-z]+Id\.\d+$)", name) for name in params)
    return ("filtered", FILTERED) if narrowed else ("unfiltered", UNFILTERED)


class Buckets:
    def __init__(self) -> None:
        self.levels: dict[tuple[str, str], tuple[float, float]] = {}  # (Region, bucket) -> (tokens, monotonic time)
        self.lock = threading.Lock()

    def take(self, region: str, action: str, params: dict[str, Any], now: float | None = None) -> bool:
        """One token for this call, or False: it is throttled."""
        name, limit = limit_of(action, params)
        now = time.monotonic() if now is None else now
        with self.lock:
            tokens, at = self.levels.get((region, name), (limit.burst, now))
            tokens = min(limit.burst, tokens + (now - at) * limit.refill)
            if tokens < 1:
                self.levels[(region, name)] = (tokens, now)
                return False
            self.levels[(region, name)] = (tokens - 1, now)
            return True
