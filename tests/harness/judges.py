"""What must hold after every scenario. Each judge says in its error who did what when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Iterable, Sequence

from .answers import Answer, Interval, serving

# Every API call by which an instance's traffic could be moved.
NETWORK_ACTIONS = {
    "ReplaceRoute", "CreateRoute", "DeleteRoute", "ReplaceRouteTableAssociation", "AssociateRouteTable", "DisassociateRouteTable",
    "ModifyNetworkInterfaceAttribute", "ModifyInstanceAttribute", "AttachNetworkInterface", "DetachNetworkInterface",
    "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "AssociateAddress", "DisassociateAddress",
    "ChangeResourceRecordSets", "CreateTransitGatewayRoute", "ReplaceTransitGatewayRoute", "DeleteTransitGatewayRoute",
    "RegisterTargets", "DeregisterTargets",
}  # fmt: skip


# What a node may warn of, by what is done to it or to its peer; regular expressions on the line after its level. Without a
# disturbance: nothing.
_NO_DYNAMODB = [
    r"^sidecar::heartbeat: heartbeat not written error=\w+ \(dynamodb:\w+\) on table ",
    r"^sidecar::core: (cannot read the lease row|no answer to a write of the lease row): \w+ \(dynamodb:\w+\) on table ",
]
_LEASE_RUNS_OUT = [r"^sidecar::core: authority ends in \d+ ms: frozen "]
EXPECTED_IN_LOGS: dict[str, list[str]] = {
    "DynamoDB away": _NO_DYNAMODB,
    "AWS away": [*_NO_DYNAMODB, r"^sidecar::bus: event not put "],
    "lease runs out": _LEASE_RUNS_OUT,
    "stood still": [*_LEASE_RUNS_OUT, *_NO_DYNAMODB],  # the request that was under way when it went on
    "workload that does not end": [
        r"^sidecar::resources::workload: did not stop in order; killing it ",
        r"^sidecar::core: rebooting this machine ",
        r"^sidecar::run: rebooting this machine: an earlier daemon",
        r"this machine had to reboot \(",
    ],
}

# In any story a daemon may complain of an answer that did not come in time, if the cloud itself says that it was late then.
LATE_ANSWER = re.compile(r"^(\S+Z)\s.* no answer within (\d+) ms")
LATE_SHARE = 0.5  # of the time that the daemon waited, at least this much the cloud knows that it was late: the rest is the way

LOUD = re.compile(r"^\S+\s+(WARN|ERROR)\s+(.*)")  # after the time
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


SENT_SHARE = 0.8  # of the requests that a prober's beat promises, at least this much was sent: a busy machine misses some
SENT_SLACK = 2  # requests, for a story of a few beats


@dataclass(frozen=True)
class Probed:
    """What one prober did during a story."""

    name: str
    alive: bool
    sent: int
    every_s: float


class NotWatched(AssertionError):
    """The probers asked too seldom: nothing can be said of what they did not see."""


class HeldUp(AssertionError):
    """A story failed on a machine that did not let its programs run: nothing can be said of the product, whose promises are
    for machines that run. Such a story is told again; one that holds is held to have held, whatever the machine did."""


HELD_UP_SHARE = 0.10  # of a story's time
HELD_UP_S = 0.25  # at one time: half of what a node waits for its peer's answer


def held_up(measures: Sequence[tuple[float, float]], seconds: float) -> str | None:
    """What to say of a machine that held its programs up. `measures`: for each prober how long it did not get to ask, in all and
    at most at one time. Two of them must agree: one alone may have been slow by itself."""
    shares = sorted((total / seconds for total, _ in measures), reverse=True)
    longest = sorted((most for _, most in measures), reverse=True)
    if len(shares) < 2 or (shares[1] < HELD_UP_SHARE and longest[1] < HELD_UP_S):
        return None
    return f"the machine held programs up for {shares[1]:.0%} of the story's {seconds:.1f} s, for {longest[1] * 1000:.0f} ms at one time"


def assert_probed(probers: Iterable[Probed], seconds: float) -> None:
    """Every prober lives and has asked all the time: who did not ask has seen nothing, least of all that nobody answered."""
    problems = []
    for one in probers:
        due = seconds / one.every_s
        if not one.alive:
            problems.append(f"{one.name} has died")
        elif one.sent < SENT_SHARE * due - SENT_SLACK:
            problems.append(f"{one.name} sent {one.sent} requests of {due:.0f} in {seconds:.1f} s")
    if problems:
        raise NotWatched("the story was not watched: " + "; ".join(problems))


@dataclass(frozen=True)
class Leak:
    """A node was paused and woke up: what it still answers until its gate runs again may leak reads (S1-serve). Only
    what was asked within start..end is forgiven."""

    node: str
    start: float
    end: float


def assert_single_service(pinned: dict[str, list[Answer]], leaks: Iterable[Leak] = ()) -> dict[str, list[Interval]]:
    """The times in which node a certainly answered and those in which node b did never overlap. `pinned`: per node, the
    answers of the prober that reaches this node's address whatever the route tables say."""
    leaks = list(leaks)
    times: dict[str, list[Interval]] = {}
    for node, answers in pinned.items():
        strangers = sorted({answer.answered_by for answer in answers if answer.ok and answer.answered_by != node}, key=str)
        assert not strangers, f"the prober pinned to {node} was answered by {strangers}: it does not reach the node it is to judge"
        kept = [one for one in answers if not any(leak.node == node and leak.start <= one.sent <= leak.end for leak in leaks)]
        times[node] = serving(kept)
    nodes = sorted(times)
    problems = []
    for i, first in enumerate(nodes):
        for second in nodes[i + 1 :]:
            for one in times[first]:
                for other in times[second]:
                    shared = _overlap(one, other)
                    if shared > 0:
                        problems.append(f"{first} ({one.answers} answers, {one.start:.3f}..{one.end:.3f}) and "
                                        f"{second} ({other.answers}, {other.start:.3f}..{other.end:.3f}) for {shared * 1000:.0f} ms")  # fmt: skip
    assert not problems, "two nodes served at once: " + "; ".join(problems)
    return times


def _overlap(one: Interval, other: Interval) -> float:
    """Seconds for which both certainly served; a lone answer counts only where its whole span lies inside the other's."""
    for lone, long in ((one, other), (other, one)):
        if lone.answers == 1:
            if long.answers == 1:
                return 0.0
            return max(lone.end - lone.start, 1e-6) if long.start <= lone.start and lone.end <= long.end else 0.0
    return min(one.end, other.end) - max(one.start, other.start)


def network_changes(audit: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in audit if entry["action"] in NETWORK_ACTIONS and entry["applied"]]


def assert_only_functions_changed_network(audit: Iterable[dict[str, Any]], deployment: str) -> list[dict[str, Any]]:
    """Every applied call that could move traffic was made by one of the deployment's functions (by its role's
    session). Returns those calls."""
    changes = network_changes(audit)
    foreign = [f"{one['service']}:{one['action']} by {one['caller']} (seq {one['seq']})" for one in changes if not _is_function(one["caller"], deployment)]
    assert not foreign, "the network was changed by somebody else than the functions: " + "; ".join(foreign)
    return changes


def _is_function(caller: dict[str, Any], deployment: str) -> bool:
    return str(caller.get("function", "")).startswith(f"{deployment}-")


def assert_quiet_logs(logs: dict[str, str], expected: Iterable[str] = (), lateness: Iterable[dict[str, Any]] = ()) -> list[str]:
    """Every line at WARN or ERROR in the nodes' logs matches one of `expected` (regular expressions), or is about an answer
    that was late by the cloud's own word (`lateness`). Returns those lines."""
    patterns = [re.compile(one) for one in expected]
    lateness = list(lateness)
    loud, surprises = [], []
    for node, text in sorted(logs.items()):
        for line in COLOURS.sub("", text).splitlines():
            found = LOUD.search(line)
            if found:
                loud.append(f"{node}: {found[0]}")
                if not any(pattern.search(found[2]) for pattern in patterns) and not _cloud_was_late(line, lateness):
                    surprises.append(f"{node}: {line}")
    assert not surprises, f"{len(surprises)} lines at WARN or ERROR that this story does not expect:\n" + "\n".join(surprises[:20])
    return loud


def _cloud_was_late(line: str, lateness: list[dict[str, Any]]) -> bool:
    found = LATE_ANSWER.search(line)
    if not found:
        return False
    end, waited = datetime.fromisoformat(found[1]).timestamp(), int(found[2]) / 1000
    # Stalls and slow answers overlap; the union counts.
    spans = sorted((max(one["start"], end - waited), min(one["end"], end)) for one in lateness)
    late, reached = 0.0, 0.0
    for start, stop in spans:
        late += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return late >= LATE_SHARE * waited
