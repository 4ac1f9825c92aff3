"""One lock per service in front of moto, whose read-check-write on shared dicts is not atomic under threads.

Held around every API call of these services and by whoever changes their state from the side. `lambda` and
`cloudformation` have none: they call back into the others. Whoever holds one of these must not wait for a Lambda.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

LOCKED = ("dynamodb", "ec2", "route53", "events", "scheduler", "iam", "sts", "logs", "s3", "ssm", "sqs", "sns", "kms", "ecr")
LOCKS = {service: threading.RLock() for service in LOCKED}


def lock_of(service: str) -> Any:
    return LOCKS.get(service) or contextlib.nullcontext()


_thread = threading.local()


@contextlib.contextmanager
def handling(call: Any) -> Iterator[None]:
    """Says which API call this thread works on, for the patches deep inside moto that need to know."""
    previous = getattr(_thread, "call", None)
    _thread.call = call
    try:
        yield
    finally:
        _thread.call = previous


def current_call() -> Any:
    """The `api_call.Call` that this thread works on, or None."""
    return getattr(_thread, "call", None)
