"""EventBridge: rules to targets, asynchronously, with retries; rate() schedules; AWS's own events.

    PutEvents / EC2 / schedule --> rules of the bus (real patterns) --> one delivery per target --> Lambda's async queue
                                                                           ^ knobs and `Deliver` faults: drop, delay, duplicate
"""

from __future__ import annotations

import copy
import json
import random
import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from moto.events import models as events_models
from moto.events.models import EventsBackend, Rule, events_backends
from moto.scheduler.models import scheduler_backends

from . import ACCOUNT
from .faults import Faults
from .iam import Check, evaluate, glob
from .iam_context import known_key
from .knobs import KnobBoard
from .lambda_host import InvokeError, LambdaHost
from .locks import LOCKS
from .timeline import Timeline

RATE = re.compile(r"rate\((\d+) (minute|minutes|hour|hours|day|days)\)")
UNIT_S = {"minute": 60, "hour": 3600, "day": 86400}
OUTAGE_POLL_S = 0.1  # how often a waiting delivery looks whether an outage has ended
MAX_ENTRY = 1024 * 1024  # bytes; AWS's limit of a PutEvents request


class Events:
    def __init__(self, *, knobs: KnobBoard, faults: Faults, timeline: Timeline, host: LambdaHost, log: Callable[..., None]):
        self.knobs, self.faults, self.timeline, self.host, self.log = knobs, faults, timeline, host, log
        self.random = random.Random()
        self.due: dict[str, tuple[str, float]] = {}  # schedule arn -> (expression and scale, monotonic time of the next firing)
        self.due_lock = threading.Lock()
        self.stopped = threading.Event()
        self.deliveries = 0
        self.refused = 0

    def start(self) -> None:
        install(self)
        threading.Thread(target=self._schedules, name="schedules", daemon=True).start()

    def close(self) -> None:
        self.stopped.set()

    # --- events in ---

    def aws_event(self, region: str, source: str, detail_type: str, resources: list[str], detail: dict[str, Any]) -> None:
        """An event of an AWS service, onto the account's default bus."""
        self.publish(region, "default", event_of(region, source, detail_type, resources, detail))

    def publish(self, region: str, bus: str, event: dict[str, Any]) -> None:
        """Every enabled rule of the bus whose pattern matches gets the event. Never blocks, never raises for a target's fault."""
        found = events_backends[ACCOUNT][region].event_buses.get(bus)
        if found is None:
            self.log("event for an unknown bus dropped", bus=bus, detail_type=event["detail-type"])
            return
        for rule in list(found.rules.values()):
            # A schedule without a pattern fires by time only; moto would match it with every event.
            if rule.state.startswith("ENABLED") and rule.event_pattern.get_pattern() and rule.event_pattern.matches_event(event):
                self.fire(region, rule, event)

    def fire(self, region: str, rule: Rule, event: dict[str, Any]) -> None:
        for target in list(rule.targets):
            self._deliver_with_knobs(region, rule.name, rule.arn, target, event)

    def _deliver_with_knobs(self, region: str, name: str, source_arn: str, target: dict[str, Any], event: dict[str, Any]) -> None:
        copies, delay = 1, self.knobs.event_delay_ms + self.random.random() * self.knobs.event_delay_spread_ms
        if self.knobs.event_drop_probability and self.random.random() < self.knobs.event_drop_probability:
            return
        if self.knobs.event_duplicate_probability and self.random.random() < self.knobs.event_duplicate_probability:
            copies = 2
        function = target["Arn"].split(":function:")[-1]
        params = {"source": event["source"], "detail-type": event["detail-type"], "rule": name, "function": function}
        fault = self.faults.pick("events", region, "Deliver", ["events"], params)
        if fault is not None:
            if fault.kind == "drop":
                return
            if fault.kind == "delay":
                delay += fault.delay_ms
            elif fault.kind == "duplicate":
                copies = fault.copies
        for index in range(copies):
            spread = self.random.random() * self.knobs.event_delay_spread_ms if index else 0.0
            self.timeline.after((delay + spread) / 1000, lambda: self._deliver(region, name, source_arn, target, event))

    # --- events out ---

    def _deliver(self, region: str, name: str, source_arn: str, target: dict[str, Any], event: dict[str, Any]) -> None:
        if self.stopped.is_set():
            return
        if self.knobs.events_outage or self.knobs.lambda_outage:
            # EventBridge keeps a delivery for 24 hours and retries; nothing is lost by an outage of that length.
            self.timeline.after(OUTAGE_POLL_S, lambda: self._deliver(region, name, source_arn, target, event))
            return
        arn = target["Arn"]
        self.deliveries += 1
        payload = json.dumps(target_input(target, event)).encode()
        if ":lambda:" in arn:
            try:
                function = self.host.function(arn.split(":")[3], arn)
            except InvokeError as gone:
                self.log("event not delivered", rule=name, reason=gone.message)
                return
            if not self._may_invoke(function, source_arn, target.get("RoleArn")):
                self.refused += 1
                self.log("event not delivered: the function's policy does not allow this rule to invoke it", rule=name, function=function.function_name)
                return
            self.host.invoke_async(function, payload, {"type": "event", "rule": name, "event_id": event["id"], "detail_type": event["detail-type"]})
        elif ":logs:" in arn:
            from moto.logs.models import logs_backends

            backend = logs_backends[ACCOUNT][region]
            group = arn.split(":log-group:")[-1].split(":")[0]
            stream = uuid.uuid4().hex
            with LOCKS["logs"]:
                backend.create_log_stream(group, stream)
                backend.put_log_events(group, stream, [{"timestamp": int(time.time() * 1000), "message": payload.decode()}])
        elif ":sqs:" in arn:
            from moto.sqs.models import sqs_backends

            with LOCKS["sqs"]:
                sqs_backends[ACCOUNT][region].send_message(arn.split(":")[-1], payload.decode())
        elif ":event-bus/" in arn:
            self.publish(arn.split(":")[3], arn.split(":event-bus/")[-1], event)
        else:
            self.log("event not delivered: the local cloud knows no such target", rule=name, target=arn)
            self.refused += 1

    def _may_invoke(self, function: Any, source_arn: str, role_arn: str | None) -> bool:
        """A rule needs the function's resource policy; a schedule of the Scheduler, its role."""
        if role_arn:
            from .principals import role_documents

            check = Check("lambda:InvokeFunction", function.function_arn, {})
            return evaluate(role_documents(role_arn), check, known_key).allowed
        for statement in function.policy.statements:
            services = statement.get("Principal", {})
            services = services.get("Service") if isinstance(services, dict) else services
            wanted = json.dumps(statement.get("Condition", {}).get("ArnLike", {}) or statement.get("Condition", {}).get("ArnEquals", {}))
            arns = re.findall(r'"[Aa][Ww][Ss]:[Ss]ource[Aa]rn": "([^"]+)"', wanted)
            if services in ("events.amazonaws.com", "*") and (not arns or any(glob(a, source_arn) for a in arns)):
                return True
        return False

    # --- schedules ---

    def _schedules(self) -> None:
        """rate() rules and Scheduler schedules. Looks four times a second, or as often as the time scale needs."""
        while not self.stopped.wait(min(0.25, max(0.02, 15.0 / self.knobs.time_scale))):
            try:
                self._tick(time.monotonic())
            except Exception as error:
                self.log("schedules: tick failed", error=repr(error))

    def _tick(self, now: float) -> None:
        seen = set()
        for arn, expression, fire in self._scheduled():
            seen.add(arn)
            found = RATE.fullmatch(expression)
            if not found:
                continue  # refused when it was created; see check_expression
            every = int(found[1]) * UNIT_S[found[2].rstrip("s")] / self.knobs.time_scale
            with self.due_lock:
                kind = f"{expression}/{self.knobs.time_scale}"
                known, due = self.due.get(arn, ("", 0.0))
                if known != kind:  # new, or its rate or the scale changed: counts from now
                    self.due[arn] = (kind, now + every)
                    continue
                if now < due or self.knobs.events_outage:
                    continue
                self.due[arn] = (kind, max(due + every, now))
            fire()
        with self.due_lock:
            for gone in set(self.due) - seen:
                del self.due[gone]

    def _scheduled(self) -> list[tuple[str, str, Callable[[], None]]]:
        out: list[tuple[str, str, Callable[[], None]]] = []
        for region, backend in list(events_backends[ACCOUNT].items()):
            for rule in [r for bus in list(backend.event_buses.values()) for r in list(bus.rules.values())]:
                if rule.scheduled_expression and rule.state == "ENABLED":
                    out.append((rule.arn, rule.scheduled_expression, lambda region=region, rule=rule: self.fire(region, rule, scheduled_event(region, rule.arn))))
        for region, backend in list(scheduler_backends[ACCOUNT].items()):
            for schedule in [s for g in list(backend.schedule_groups.values()) for s in list(g.schedules.values())]:
                if schedule.state == "ENABLED":
                    out.append((schedule.arn, schedule.schedule_expression, lambda region=region, s=schedule: self._deliver_with_knobs(
                        region, s.name, s.arn, s.target, scheduled_event(region, s.arn))))  # fmt: skip
        return out


def event_of(region: str, source: str, detail_type: str, resources: list[str], detail: Any, at: float | None = None) -> dict[str, Any]:
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": detail_type,
        "source": source,
        "account": ACCOUNT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
        "region": region,
        "resources": resources,
        "detail": detail,
    }


def scheduled_event(region: str, arn: str) -> dict[str, Any]:
    return event_of(region, "aws.events" if ":events:" in arn else "aws.scheduler", "Scheduled Event", [arn], {})


def target_input(target: dict[str, Any], event: dict[str, Any]) -> Any:
    if "Input" in target:
        return json.loads(target["Input"])
    if target.get("InputPath"):
        value: Any = event
        for part in target["InputPath"].removeprefix("$").strip(".").split("."):
            value = value.get(part) if isinstance(value, dict) and part else value
        return value
    transformer = target.get("InputTransformer")
    if transformer:
        return events_models.EventTemplateParser.parse(transformer["InputTemplate"], transformer.get("InputPathsMap", {}), {**event, "ingestion-time": event.get("time")})
    return event


def check_expression(expression: str | None) -> None:
    """Refuses what would never fire here."""
    if expression and not RATE.fullmatch(expression):
        raise events_models.ValidationException(
            f"Parameter ScheduleExpression is not valid. (The local cloud knows rate() only, not {expression!r}.)"
        )


def install(events: Events) -> None:
    """moto's put_events calls targets in the request's thread and knows no Lambda: replaced."""
    original_put_rule = EventsBackend.put_rule

    def put_events(self: EventsBackend, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not entries or len(entries) > 10:
            raise events_models.ValidationException(
                f"1 validation error detected: Value '[{len(entries)} entries]' at 'entries' failed to satisfy constraint: "
                "Member must have length between 1 and 10"
            )
        out = []
        for entry in entries:
            problem = entry_problem(entry)
            if problem:
                out.append(problem)
                continue
            bus = (entry.get("EventBusName") or "default").split(":event-bus/")[-1]
            self.describe_event_bus(bus)  # ResourceNotFoundException for an unknown one
            event = event_of(self.region_name, entry["Source"], entry["DetailType"], entry.get("Resources") or [], json.loads(entry["Detail"]), entry.get("Time"))
            events.publish(self.region_name, bus, event)
            out.append({"EventId": event["id"]})
        return out

    def put_rule(self: EventsBackend, *args: Any, **kwargs: Any) -> Rule:
        check_expression(kwargs.get("scheduled_expression"))
        return original_put_rule(self, *args, **kwargs)

    def send_to_targets(self: Rule, original_event: Any, transform_input: bool = True) -> None:
        event = copy.deepcopy(original_event)  # events that other services of moto put (S3)
        event.pop("ingestion-time", None)
        event["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
        if self.event_pattern.get_pattern() and self.event_pattern.matches_event(event):
            events.fire(self.region_name, self, event)

    EventsBackend.put_events = put_events  # type: ignore[method-assign]
    EventsBackend.put_rule = put_rule  # type: ignore[method-assign]
    Rule.send_to_targets = send_to_targets  # type: ignore[method-assign]


def entry_problem(entry: dict[str, Any]) -> dict[str, str] | None:
    """What EventBridge answers for one bad entry; the others of the request are still taken."""
    for name in ("Source", "DetailType", "Detail"):
        if not entry.get(name):
            return {"ErrorCode": "InvalidArgument", "ErrorMessage": f"Parameter {name} is not valid. Reason: {name} is a required argument."}
    if entry["Source"].startswith("aws."):
        return {"ErrorCode": "NotAuthorizedForSourceException", "ErrorMessage": "Not authorized for the source."}
    try:
        detail = json.loads(entry["Detail"])
    except ValueError:
        return {"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}
    if not isinstance(detail, dict):
        return {"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}
    return None
