"""The control API, the audit log and the knobs."""

from __future__ import annotations

import json

import pytest

from localcloud.audit import AuditLog, is_mutating, written_attributes
from localcloud.knobs import KnobBoard, KnobError

from .conftest import Kit


def test_health(kit: Kit) -> None:
    health = kit.control("GET", "health")
    assert (health["moto"], health["plane"], health["port"]) == ("5.2.5", False, kit.cloud.port)


@pytest.mark.parametrize(("method", "path"), [("GET", "nothing"), ("POST", "audit"), ("DELETE", "faults/f999999"), ("GET", "audit?after=x"), ("GET", "plane/nodes")])
def test_unknown_requests_say_so(kit: Kit, method: str, path: str) -> None:
    with pytest.raises(AssertionError, match="40[04]: .*error"):
        kit.control(method, path)


def test_the_audit_log_has_every_mutating_call_with_caller_key_and_what_was_written(kit: Kit) -> None:
    table = kit.table()
    at = kit.control("GET", "health")["audit"]
    keys = kit.keys([{"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*"}], session="i-0abc")
    db = kit.client("dynamodb", keys=keys)
    key = {"cluster": {"S": "web"}, "item": {"S": "lease"}}
    for condition in ("attribute_not_exists(epoch)", "attribute_not_exists(epoch)"):
        try:
            db.update_item(TableName=table, Key=key, UpdateExpression="SET #e = :e, rev = :r, holder = :h", ConditionExpression=condition,
                           ExpressionAttributeNames={"#e": "epoch"}, ExpressionAttributeValues={":e": {"N": "7"}, ":r": {"N": "41"}, ":h": {"M": {"node": {"S": "a"}}}})  # fmt: skip
        except db.exceptions.ConditionalCheckFailedException:
            pass
    db.get_item(TableName=table, Key=key)
    first, second = [e for e in kit.control("GET", f"audit?after={at}") if e["service"] == "dynamodb"]
    assert first["caller"] == {"kind": "role", "role": first["caller"]["role"], "session": "i-0abc"}
    assert first["params"] == {"table": table, "key": {"cluster": "web", "item": "lease"}, "written": {"epoch": 7, "rev": 41, "holder": {"node": "a"}}}
    assert (first["status"], first["error"], first["applied"], first["region"]) == (200, None, True, "ap-northeast-1")
    assert (second["status"], second["error"], second["applied"]) == (400, "ConditionalCheckFailedException", False)
    assert second["seq"] == first["seq"] + 1 and second["time"] >= first["time"]


def test_the_audit_log_has_routes_and_refusals(kit: Kit) -> None:
    net = kit.vpc()
    at = kit.control("GET", "health")["audit"]
    keys = kit.keys([{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}], session="i-0abc")
    with pytest.raises(Exception, match="UnauthorizedOperation"):
        kit.client("ec2", keys=keys).delete_route(RouteTableId=net["table"], DestinationCidrBlock="10.99.0.10/32")
    [entry] = [e for e in kit.control("GET", f"audit?after={at}") if e["service"] == "ec2"]
    assert entry["params"] == {"RouteTableId": net["table"], "DestinationCidrBlock": "10.99.0.10/32"}
    assert (entry["error"], entry["applied"]) == ("UnauthorizedOperation", False)


def test_put_events_are_audited_with_their_entries(kit: Kit) -> None:
    at = kit.control("GET", "health")["audit"]
    kit.client("events").put_events(Entries=[{"Source": "s", "DetailType": "t", "Detail": json.dumps({"epoch": 3})}])
    [entry] = kit.control("GET", f"audit?after={at}")
    assert entry["params"]["entries"] == [{"bus": "default", "source": "s", "detail_type": "t", "detail": '{"epoch": 3}'}]


def test_what_counts_as_mutating() -> None:
    assert all(is_mutating(a) for a in ("UpdateItem", "PutEvents", "ReplaceRoute", "StopInstances", "Invoke", "TransactWriteItems"))
    assert not any(is_mutating(a) for a in ("GetItem", "DescribeInstances", "Query", "ListTables", "AssumeRole", "GetCallerIdentity"))


def test_written_attributes_of_an_update() -> None:
    params = {"UpdateExpression": "SET #a = :x, b=:y REMOVE c", "ExpressionAttributeNames": {"#a": "epoch"},
              "ExpressionAttributeValues": {":x": {"N": "5"}, ":y": {"BOOL": True}}}  # fmt: skip
    assert written_attributes(params) == {"epoch": 5, "b": True}


def test_the_audit_log_is_bounded() -> None:
    log = AuditLog()
    for _ in range(log.entries.maxlen + 5):  # type: ignore[operator]
        log.add(at=0, caller={}, service="s", region="r", action="a", params={}, status=200, error=None, applied=True)
    assert len(log.entries) == log.entries.maxlen and log.after(log.sequence - 1)[0]["seq"] == log.sequence


def test_knobs_are_checked_all_at_once_and_applied_all_or_none() -> None:
    board = KnobBoard()
    with pytest.raises(KnobError, match="colour.*time_scale.*events_outage"):
        board.set({"colour": 1, "time_scale": 0, "events_outage": "yes", "event_delay_ms": 5})
    assert board.event_delay_ms == 0
    assert board.set({"event_delay_ms": 5, "events_outage": True})["event_delay_ms"] == 5.0
    assert board.events_outage is True
