"""The policy evaluator: identity-based policies with AWS's condition operators. Pure.

Refuses what it does not know: an unknown operator or condition key is an error, never a silent allow or deny.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

VARIABLE = re.compile(r"\$\{([^}]+)\}")


class PolicyError(Exception):
    """A policy that this evaluator cannot judge."""


@dataclass(frozen=True)
class Decision:
    allowed: bool
    explicit_deny: bool = False
    sid: str = ""


@dataclass
class Check:
    """One question to the policies. `resource` None: the service's gap list says resources are not judged for this action."""

    action: str
    resource: str | None
    context: dict[str, list[str]]  # condition keys in lower case


@lru_cache(maxsize=512)
def parse(document: str) -> tuple[dict[str, Any], ...]:
    statements = json.loads(document)["Statement"]
    return tuple(statements if isinstance(statements, list) else [statements])


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def glob(pattern: str, value: str, *, ignore_case: bool = False) -> bool:
    """IAM's wildcards: * and ? only (fnmatch's [ ] are literal in IAM)."""
    if ignore_case:
        pattern, value = pattern.lower(), value.lower()
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def arn_matches(pattern: str, value: str) -> bool:
    """Each of the six colon-separated parts is matched on its own, as ArnLike does."""
    left, right = pattern.split(":", 5), value.split(":", 5)
    return len(left) == len(right) == 6 and all(glob(a, b) for a, b in zip(left, right, strict=True))


def resource_matches(pattern: str, value: str) -> bool:
    """Resource elements: as ARNs where both are, else as plain text (a pattern such as arn:aws:s3*)."""
    return arn_matches(pattern, value) if pattern.count(":") >= 5 and value.count(":") >= 5 else glob(pattern, value)


def substitute(text: str, context: dict[str, list[str]]) -> str | None:
    """Policy variables. None if one has no value: the statement then does not match."""
    missing = False

    def one(found: re.Match[str]) -> str:
        nonlocal missing
        name = found[1]
        if name in ("*", "?", "$"):
            return f"[{name}]"
        values = context.get(name.lower())
        if not values:
            missing = True
            return ""
        return values[0]

    out = VARIABLE.sub(one, text)
    return None if missing else out


NEGATED = ("StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike", "ArnNotEquals", "ArnNotLike", "NumericNotEquals", "NotIpAddress")


def one_matches(operator: str, have: str, want: str) -> bool:
    """The positive form of an operator for one value of the request and one of the policy."""
    if operator == "StringEquals":
        return have == want
    if operator == "StringEqualsIgnoreCase":
        return have.lower() == want.lower()
    if operator == "StringLike":
        return glob(want, have)
    if operator in ("ArnEquals", "ArnLike"):
        return arn_matches(want, have)
    if operator == "Bool":
        return have.lower() == want.lower()
    if operator == "IpAddress":
        return ipaddress.ip_address(have) in ipaddress.ip_network(want, strict=False)
    if operator.startswith("Numeric"):
        left, right = float(have), float(want)
        return {
            "NumericEquals": left == right,
            "NumericLessThan": left < right,
            "NumericLessThanEquals": left <= right,
            "NumericGreaterThan": left > right,
            "NumericGreaterThanEquals": left >= right,
        }[operator]
    raise PolicyError(f"condition operator {operator} is not known to the local cloud")


POSITIVE = {"StringNotEquals": "StringEquals", "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase", "StringNotLike": "StringLike",
            "ArnNotEquals": "ArnEquals", "ArnNotLike": "ArnLike", "NumericNotEquals": "NumericEquals", "NotIpAddress": "IpAddress"}  # fmt: skip


def condition_holds(operator: str, key: str, wanted: Any, context: dict[str, list[str]]) -> bool:
    qualifier, _, base = operator.rpartition(":")
    if qualifier not in ("", "ForAllValues", "ForAnyValue"):
        raise PolicyError(f"condition qualifier {qualifier} is not known to the local cloud")
    if_exists = base.endswith("IfExists")
    base = base.removesuffix("IfExists")
    have = context.get(key.lower())
    wants = [str(w).lower() if isinstance(w, bool) else str(w) for w in listed(wanted)]
    if base == "Null":
        return any((not have) == (w.lower() == "true") for w in wants)
    negated = base in NEGATED
    positive = POSITIVE.get(base, base)
    one_matches(positive, *(("0", "0") if positive.startswith("Numeric") else ("1.2.3.4", "1.2.3.4")))  # refuses unknown operators even unused
    if not have:
        if if_exists or qualifier == "ForAllValues":
            return True
        return negated and qualifier != "ForAnyValue"
    resolved = [r for w in wants if (r := substitute(w, context)) is not None]
    verdicts = [any(one_matches(positive, h, w) for w in resolved) != negated for h in have]
    return any(verdicts) if qualifier == "ForAnyValue" else all(verdicts)


def applies(statement: dict[str, Any], check: Check, known_key: Any) -> bool:
    unknown = set(statement) - {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
    if unknown:
        raise PolicyError(f"statement elements {sorted(unknown)} are not known to the local cloud")
    if "Action" in statement:
        if not any(glob(a, check.action, ignore_case=True) for a in listed(statement["Action"])):
            return False
    elif any(glob(a, check.action, ignore_case=True) for a in listed(statement["NotAction"])):
        return False
    if check.resource is None:
        return True  # resources and conditions are not judged for this action (README: gaps)
    patterns = [substitute(str(r), check.context) for r in listed(statement.get("Resource", statement.get("NotResource", "*")))]
    hit = any(p is not None and (p == "*" or resource_matches(p, check.resource)) for p in patterns)
    if hit != ("NotResource" not in statement):
        return False
    for operator, pairs in (statement.get("Condition") or {}).items():
        for key, wanted in pairs.items():
            if not known_key(key.lower()):
                raise PolicyError(f"condition key {key} (with {check.action}) is not known to the local cloud")
            if not condition_holds(operator, key, wanted, check.context):
                return False
    return True


def evaluate(documents: list[str], check: Check, known_key: Any) -> Decision:
    """An explicit deny wins; without any allow the answer is no."""
    allow: Decision | None = None
    for document in documents:
        for statement in parse(document):
            if not applies(statement, check, known_key):
                continue
            if statement["Effect"] == "Deny":
                if check.resource is None and (statement.get("Condition") or listed(statement.get("Resource", "*")) != ["*"]):
                    continue  # cannot be judged; an unconditional deny on * still counts
                return Decision(False, True, statement.get("Sid", ""))
            allow = allow or Decision(True, False, statement.get("Sid", ""))
    return allow or Decision(False)


def trust_allows(document: str | dict[str, Any], service: str) -> bool:
    """Does a role's trust policy let this AWS service assume it?"""
    policy = json.loads(document) if isinstance(document, str) else document
    for statement in listed(policy["Statement"]):
        principal = statement.get("Principal", {})
        services = ["*"] if principal == "*" else listed(principal.get("Service", []))
        if statement["Effect"] == "Allow" and service in services and "sts:AssumeRole" in listed(statement["Action"]):
            return True
    return False
