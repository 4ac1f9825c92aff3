"""EventBridge as documented: patterns, asynchronous delivery, schedules, permissions, entry errors."""

from __future__ import annotations

import json
import time
import uuid

import pytest
from botocore.exceptions import ClientError

from localcloud.events import event_of, target_input

from .conftest import REGION, Kit, until

ECHO = "def handle(event):\n    if event.get('detail', {}).get('fail'): raise ValueError('no')\n    return event\n"


def rule(kit: Kit, function: str, *, bus: str = "default", permit: bool = True, **options: object) -> str:
    events, name = kit.client("events"), "rule-" + uuid.uuid4().hex[:8]
    arn = events.put_rule(Name=name, EventBusName=bus, **options)["RuleArn"]
    target = kit.client("lambda").get_function(FunctionName=function)["Configuration"]["FunctionArn"]
    events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "1", "Arn": target}])
    if permit:
        kit.client("lambda").add_permission(FunctionName=function, StatementId=name, Action="lambda:InvokeFunction", Principal="events.amazonaws.com", SourceArn=arn)
    return name


def put(kit: Kit, source: str, detail_type: str, detail: object, bus: str = "default") -> dict:
    return kit.client("events").put_events(Entries=[{"Source": source, "DetailType": detail_type, "Detail": json.dumps(detail), "EventBusName": bus}])


def bus_of(kit: Kit) -> str:
    name = "bus-" + uuid.uuid4().hex[:8]
    kit.client("events").create_event_bus(Name=name)
    return name


def test_a_matching_event_reaches_the_function_in_aws_shape(kit: Kit) -> None:
    bus, function = bus_of(kit), kit.function(ECHO)
    rule(kit, function, bus=bus, EventPattern=json.dumps({"source": ["leasehold"], "detail-type": ["Holder Suspected"]}))
    begun = time.monotonic()
    out = put(kit, "leasehold", "Holder Suspected", {"epoch": 7}, bus)
    assert time.monotonic() - begun < 0.5, "PutEvents does not wait for targets"
    assert out["FailedEntryCount"] == 0
    put(kit, "leasehold", "Node Joined", {}, bus)  # does not match
    put(kit, "leasehold", "Holder Suspected", {}, "default")  # another bus
    [run] = until(lambda: [r for r in kit.runs(function) if r["ended"]])
    event = run["request"]
    assert event["id"] == out["Entries"][0]["EventId"]
    assert (event["source"], event["detail-type"], event["detail"]) == ("leasehold", "Holder Suspected", {"epoch": 7})
    assert (event["account"], event["region"], event["version"], event["resources"]) == ("123456789012", REGION, "0", [])
    time.strptime(event["time"], "%Y-%m-%dT%H:%M:%SZ")
    assert run["trigger"]["type"] == "event"
    time.sleep(0.2)
    assert len(kit.runs(function)) == 1


def test_a_disabled_rule_does_not_fire(kit: Kit) -> None:
    bus, function = bus_of(kit), kit.function(ECHO)
    name = rule(kit, function, bus=bus, EventPattern=json.dumps({"source": ["x"]}))
    kit.client("events").disable_rule(Name=name, EventBusName=bus)
    put(kit, "x", "y", {}, bus)
    time.sleep(0.3)
    assert kit.runs(function) == []


def test_a_function_that_does_not_permit_the_rule_is_not_invoked(kit: Kit) -> None:
    bus, function = bus_of(kit), kit.function(ECHO)
    before = kit.cloud.events.refused
    rule(kit, function, bus=bus, permit=False, EventPattern=json.dumps({"source": ["x"]}))
    put(kit, "x", "y", {}, bus)
    until(lambda: kit.cloud.events.refused == before + 1)
    assert kit.runs(function) == []


def test_bad_entries_are_reported_one_by_one(kit: Kit) -> None:
    out = kit.client("events").put_events(Entries=[{"Source": "a", "DetailType": "b", "Detail": "{}"}, {"Source": "a", "DetailType": "b", "Detail": "{nope"},
                                                   {"DetailType": "b", "Detail": "{}"}, {"Source": "aws.ec2", "DetailType": "b", "Detail": "{}"}])  # fmt: skip
    assert out["FailedEntryCount"] == 3
    assert "EventId" in out["Entries"][0]
    assert [e.get("ErrorCode") for e in out["Entries"][1:]] == ["MalformedDetail", "InvalidArgument", "NotAuthorizedForSourceException"]


def test_more_than_ten_entries_are_refused(kit: Kit) -> None:
    with pytest.raises(ClientError) as refused:
        kit.client("events").put_events(Entries=[{"Source": "a", "DetailType": "b", "Detail": "{}"}] * 11)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_a_rate_schedule_fires_by_time_only(kit: Kit) -> None:
    kit.cloud.knobs.set({"time_scale": 120.0})  # rate(1 minute): each half second
    function = kit.function(ECHO)
    name = rule(kit, function, ScheduleExpression="rate(1 minute)")
    put(kit, "x", "y", {})  # moto would match a schedule with every event
    begun = time.monotonic()
    runs = until(lambda: r if len(r := kit.runs(function)) >= 2 else None)
    assert 0.7 < time.monotonic() - begun < 2.5
    assert runs[0]["request"]["source"] == "aws.events" and runs[0]["request"]["detail-type"] == "Scheduled Event"
    kit.client("events").disable_rule(Name=name)
    time.sleep(0.1)
    count = len(kit.runs(function))
    time.sleep(0.8)
    assert len(kit.runs(function)) == count


def test_cron_is_refused_rather_than_never_fired(kit: Kit) -> None:
    with pytest.raises(ClientError) as refused:
        kit.client("events").put_rule(Name="cron", ScheduleExpression="cron(0 12 * * ? *)")
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_a_scheduler_schedule_invokes_with_its_role(kit: Kit) -> None:
    kit.cloud.knobs.set({"time_scale": 120.0})
    function = kit.function(ECHO)
    arn = kit.client("lambda").get_function(FunctionName=function)["Configuration"]["FunctionArn"]
    allowed = kit.role([{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": arn}], service="scheduler.amazonaws.com")
    scheduler, name = kit.client("scheduler"), "s-" + uuid.uuid4().hex[:8]
    scheduler.create_schedule(Name=name, ScheduleExpression="rate(1 minute)", FlexibleTimeWindow={"Mode": "OFF"}, Target={"Arn": arn, "RoleArn": allowed, "Input": '{"hello": 1}'})
    run = until(lambda: kit.runs(function))[0]
    assert run["request"] == {"hello": 1}
    scheduler.delete_schedule(Name=name)


def test_event_knobs_duplicate_delay_and_drop(kit: Kit) -> None:
    bus, function = bus_of(kit), kit.function(ECHO)
    rule(kit, function, bus=bus, EventPattern=json.dumps({"source": ["x"]}))
    kit.cloud.knobs.set({"event_duplicate_probability": 1.0})
    put(kit, "x", "y", {"n": 1}, bus)
    runs = until(lambda: r if len(r := kit.runs(function)) == 2 else None)
    assert runs[0]["request"]["id"] == runs[1]["request"]["id"], "a duplicate has the same id"
    kit.cloud.knobs.set({"event_duplicate_probability": 0.0, "event_delay_ms": 400.0})
    begun = time.monotonic()
    put(kit, "x", "y", {"n": 2}, bus)
    until(lambda: len(kit.runs(function)) == 3)
    assert time.monotonic() - begun >= 0.4
    kit.cloud.knobs.set({"event_delay_ms": 0.0, "event_drop_probability": 1.0})
    put(kit, "x", "y", {"n": 3}, bus)
    time.sleep(0.3)
    assert len(kit.runs(function)) == 3


def test_a_deliver_fault_hits_one_kind_of_event_only(kit: Kit) -> None:
    bus, function = bus_of(kit), kit.function(ECHO)
    rule(kit, function, bus=bus, EventPattern=json.dumps({"source": ["x"]}))
    kit.control("POST", "faults", {"kind": "drop", "service": "events", "action": "Deliver", "params": {"detail-type": "Lost*"}, "count": 1})
    for kind in ("Lost One", "Kept", "Lost Two"):
        put(kit, "x", kind, {}, bus)
    runs = until(lambda: r if len(r := kit.runs(function)) == 2 else None)
    assert {r["request"]["detail-type"] for r in runs} == {"Kept", "Lost Two"}


def test_an_eventbridge_outage_refuses_new_events_and_a_lambda_outage_only_delays(kit: Kit) -> None:
    bus, function = bus_of(kit), kit.function(ECHO)
    rule(kit, function, bus=bus, EventPattern=json.dumps({"source": ["x"]}))
    kit.cloud.knobs.set({"events_outage": True})
    with pytest.raises(ClientError) as down:
        put(kit, "x", "y", {}, bus)
    assert down.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    kit.cloud.knobs.set({"events_outage": False, "lambda_outage": True})
    put(kit, "x", "y", {"kept": True}, bus)
    with pytest.raises(ClientError) as refused:
        kit.invoke(function)
    assert refused.value.response["Error"]["Code"] == "ServiceException"
    time.sleep(0.3)
    assert kit.runs(function) == []
    kit.cloud.knobs.set({"lambda_outage": False})
    assert until(lambda: kit.runs(function))[0]["request"]["detail"] == {"kept": True}


def test_target_input_forms() -> None:
    event = event_of(REGION, "s", "t", [], {"a": {"b": 3}})
    assert target_input({"Input": '{"x": 1}'}, event) == {"x": 1}
    assert target_input({"InputPath": "$.detail.a"}, event) == {"b": 3}
    assert target_input({"InputTransformer": {"InputPathsMap": {"v": "$.detail.a.b"}, "InputTemplate": '{"n": <v>}'}}, event) in ({"n": 3}, '{"n": 3}')
    assert target_input({}, event) is event


def test_an_aws_event_from_the_control_api(kit: Kit) -> None:
    function = kit.function(ECHO)
    name = rule(kit, function, EventPattern=json.dumps({"source": ["aws.ec2"], "detail-type": ["EC2 Spot Instance Interruption Warning"]}))
    kit.control("POST", "event", {"source": "aws.ec2", "detail_type": "EC2 Spot Instance Interruption Warning", "detail": {"instance-id": "i-1"}, "region": REGION})
    assert until(lambda: kit.runs(function))[0]["request"]["detail"] == {"instance-id": "i-1"}
    kit.client("events").remove_targets(Rule=name, Ids=["1"])


def test_failed_asynchronous_invokes_reach_the_on_failure_queue(kit: Kit) -> None:
    function, queue = kit.function(ECHO), "q-" + uuid.uuid4().hex[:8]
    url = kit.client("sqs").create_queue(QueueName=queue)["QueueUrl"]
    kit.client("lambda").put_function_event_invoke_config(FunctionName=function, MaximumRetryAttempts=0, DestinationConfig={
        "OnFailure": {"Destination": f"arn:aws:sqs:{REGION}:123456789012:{queue}"}})  # fmt: skip
    kit.invoke(function, {"detail": {"fail": True}}, InvocationType="Event")
    message = until(lambda: kit.client("sqs").receive_message(QueueUrl=url).get("Messages"))[0]
    record = json.loads(message["Body"])
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestPayload"] == {"detail": {"fail": True}} and record["responsePayload"]["errorMessage"] == "no"
