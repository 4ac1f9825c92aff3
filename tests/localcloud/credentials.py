"""Who is calling: every access key that this cloud handed out, and the role, session and process behind it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from moto.sts.models import sts_backends

from . import ACCOUNT


@dataclass(frozen=True)
class Principal:
    kind: str  # "operator" (any key we did not issue, not under test) or "role"
    access_key: str
    role: str = ""  # role name
    role_arn: str = ""
    session: str = ""  # an instance id, a function's name, or what AssumeRole was given
    token: str = ""
    expires: float = float("inf")  # wall clock: what AWS's own answer carries
    origin: dict[str, str] = field(default_factory=dict, hash=False)  # {"instance": ...} or {"function": ..., "environment": ...}

    @property
    def arn(self) -> str:
        if self.kind == "operator":
            return f"arn:aws:iam::{ACCOUNT}:root"
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{self.role}/{self.session}"

    @property
    def names(self) -> list[str]:
        """What a fault rule's `caller` may match."""
        if self.kind == "operator":
            return ["operator"]
        return [self.role, self.session, *self.origin.values()]

    def describe(self) -> dict[str, str]:
        if self.kind == "operator":
            return {"kind": "operator"}
        return {"kind": "role", "role": self.role, "session": self.session, **self.origin}


class UnknownKey(Exception):
    """An access key of the temporary kind that was never issued here."""


class Credentials:
    def __init__(self) -> None:
        self.known: dict[str, Principal] = {}
        self.lock = threading.Lock()

    def issue(self, role_arn: str, session: str, seconds: float, origin: dict[str, str]) -> dict[str, Any]:
        """Temporary credentials for `role_arn`, made through moto's STS so that GetCallerIdentity knows them too."""
        with self.lock:
            assumed = sts_backends[ACCOUNT]["aws"].assume_role("us-east-1", session, role_arn, None, int(seconds), None)
            principal = Principal("role", assumed.access_key_id, role_arn.rsplit("/", 1)[-1], role_arn, session, assumed.session_token,
                                  time.time() + seconds, origin)  # fmt: skip
            self.known[principal.access_key] = principal
        return {"AccessKeyId": assumed.access_key_id, "SecretAccessKey": assumed.secret_access_key, "Token": assumed.session_token,
                "Expiration": principal.expires}  # fmt: skip

    def principal(self, access_key: str) -> Principal:
        found = self.known.get(access_key)
        if found is not None:
            return found
        if not access_key.startswith("ASIA"):
            return Principal("operator", access_key)
        with self.lock:
            for assumed in reversed(sts_backends[ACCOUNT]["aws"].assumed_roles):  # made by the AssumeRole API
                if assumed.access_key_id == access_key:
                    principal = Principal("role", access_key, assumed.role_arn.rsplit("/", 1)[-1], assumed.role_arn, assumed.session_name,
                                          assumed.session_token, assumed.expiration.timestamp())  # fmt: skip
                    self.known[access_key] = principal
                    return principal
        raise UnknownKey(access_key)

    def forget(self, access_key: str) -> None:
        """Called when the process the keys were made for is gone for good."""
        with self.lock:
            self.known.pop(access_key, None)
            backend = sts_backends[ACCOUNT]["aws"]
            backend.assumed_roles = [a for a in backend.assumed_roles if a.access_key_id != access_key]
