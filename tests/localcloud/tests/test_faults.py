"""Faults at the front door, each as an SDK sees it, and the scenarios' two Lambda hooks."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, HTTPClientError, ReadTimeoutError

from .conftest import Kit, until

WRITER = """
import boto3, botocore.config
def handle(event):
    ec2 = boto3.client("ec2", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=botocore.config.Config(retries={"max_attempts": 0}, read_timeout=30))
    for table in event["tables"]:
        ec2.replace_route(RouteTableId=table, DestinationCidrBlock="10.99.0.10/32", NetworkInterfaceId=event["eni"])
    return "done"
"""
MAY_ROUTE = [{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]


def put(kit: Kit, table: str, value: int, **config: Any) -> Any:
    return kit.client("dynamodb", **config).put_item(TableName=table, Item={"cluster": {"S": "c"}, "item": {"S": "i"}, "n": {"N": str(value)}})


def value(kit: Kit, table: str) -> int | None:
    item = kit.client("dynamodb").get_item(TableName=table, Key={"cluster": {"S": "c"}, "item": {"S": "i"}}).get("Item")
    return int(item["n"]["N"]) if item else None


def fault(kit: Kit, **spec: Any) -> str:
    return kit.control("POST", "faults", spec)["id"]


def test_throttling_has_each_services_own_code(kit: Kit) -> None:
    table = kit.table()
    fault(kit, kind="throttle", service="dynamodb", action="PutItem", count=1)
    fault(kit, kind="throttle", service="ec2", count=1)
    with pytest.raises(ClientError) as refused:
        put(kit, table, 1)
    assert refused.value.response["Error"]["Code"] == "ProvisionedThroughputExceededException"
    with pytest.raises(ClientError) as refused:
        kit.client("ec2").describe_vpcs()
    assert refused.value.response["Error"]["Code"] == "RequestLimitExceeded"
    put(kit, table, 2)  # count is used up
    assert value(kit, table) == 2


def test_an_error_is_not_applied(kit: Kit) -> None:
    table = kit.table()
    fault(kit, kind="error", service="dynamodb", action="PutItem", status=503, code="ServiceUnavailable", count=1)
    with pytest.raises(ClientError) as refused:
        put(kit, table, 1)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert value(kit, table) is None


def test_a_dropped_request_times_out_and_is_not_applied(kit: Kit) -> None:
    table = kit.table()
    fault(kit, kind="drop", service="dynamodb", action="PutItem", count=1)
    with pytest.raises(ReadTimeoutError):
        put(kit, table, 1, read_timeout=0.3)
    assert value(kit, table) is None


def test_a_lost_answer_times_out_and_is_applied(kit: Kit) -> None:
    table = kit.table()
    fault(kit, kind="drop_after", service="dynamodb", action="PutItem", count=1)
    with pytest.raises(ReadTimeoutError):
        put(kit, table, 1, read_timeout=0.3)
    assert value(kit, table) == 1


def test_an_outage_resets_connections_until_it_is_lifted(kit: Kit) -> None:
    table = kit.table()
    rule = fault(kit, kind="refuse", service="dynamodb")
    with pytest.raises((ConnectionClosedError, EndpointConnectionError, HTTPClientError)):
        put(kit, table, 1)
    kit.control("DELETE", f"faults/{rule}")
    put(kit, table, 2)
    assert value(kit, table) == 2


def test_delay(kit: Kit) -> None:
    table = kit.table()
    fault(kit, kind="delay", service="dynamodb", delay_ms=300, count=1)
    begun = time.monotonic()
    put(kit, table, 1)
    assert time.monotonic() - begun > 0.3 and value(kit, table) == 1


def test_rules_match_callers_regions_and_parameters_and_skip(kit: Kit) -> None:
    table, other = kit.table(), kit.table()
    rules = [{"kind": "throttle", "service": "dynamodb", "action": "PutItem", "params": {"TableName": table}, "skip": 1},
             {"kind": "throttle", "service": "dynamodb", "region": "eu-*"}, {"kind": "throttle", "caller": "i-*"}]  # fmt: skip
    assert len(kit.control("POST", "faults", rules)) == 3
    put(kit, table, 1)  # skipped
    with pytest.raises(ClientError):
        put(kit, table, 2)
    put(kit, other, 3)
    with pytest.raises(ClientError):
        kit.client("dynamodb", region="eu-west-1").list_tables()
    keys = kit.keys([{"Effect": "Allow", "Action": "*", "Resource": "*"}], session="i-0123")
    with pytest.raises(ClientError):
        kit.client("dynamodb", keys=keys).list_tables()
    assert [r["hits"] for r in kit.control("GET", "faults")] == [1, 1, 1]


def test_probability(kit: Kit) -> None:
    fault(kit, kind="throttle", service="dynamodb", probability=0.5)
    db, refused = kit.client("dynamodb"), 0
    for _ in range(60):
        try:
            db.list_tables()
        except ClientError:
            refused += 1
    assert 10 < refused < 50


def test_a_paused_call_is_applied_when_released(kit: Kit) -> None:
    table = kit.table()
    rule = fault(kit, kind="pause", service="dynamodb", action="PutItem", count=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(put, kit, table, 7)
        held = until(lambda: kit.control("GET", "faults")[0]["held"])
        assert held[0]["action"] == "PutItem" and value(kit, table) is None
        assert kit.control("POST", f"faults/{rule}/release", {"count": 1}) == {"released": 1}
        waiting.result()
    assert value(kit, table) == 7


def test_a_paused_call_whose_caller_gave_up_is_not_applied(kit: Kit) -> None:
    table = kit.table()
    rule = fault(kit, kind="pause", service="dynamodb", action="PutItem", count=1)
    with pytest.raises(ReadTimeoutError):
        put(kit, table, 7, read_timeout=0.3)
    kit.control("DELETE", f"faults/{rule}")
    time.sleep(0.2)
    assert value(kit, table) is None


def tables(kit: Kit) -> tuple[list[str], str, str]:
    net, ec2 = kit.vpc(), kit.client("ec2")
    old, new = (ec2.create_network_interface(SubnetId=s)["NetworkInterface"]["NetworkInterfaceId"] for s in net["subnets"])
    second = ec2.create_route_table(VpcId=net["vpc"])["RouteTable"]["RouteTableId"]
    for table in (net["table"], second):
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.99.0.10/32", NetworkInterfaceId=old)
    return [net["table"], second], old, new


def targets(kit: Kit, names: list[str]) -> list[str]:
    found = {t["RouteTableId"]: t for t in kit.client("ec2").describe_route_tables(RouteTableIds=names)["RouteTables"]}
    return [next(r["NetworkInterfaceId"] for r in found[n]["Routes"] if r["DestinationCidrBlock"] == "10.99.0.10/32") for n in names]


def test_lambda_killed_between_two_route_writes(kit: Kit) -> None:
    names, old, new = tables(kit)
    function = kit.function(WRITER, statements=MAY_ROUTE, Timeout=20)
    fault(kit, kind="kill_caller", service="ec2", action="ReplaceRoute", skip=1, count=1)
    out = kit.invoke(function, {"tables": names, "eni": new})
    assert out["FunctionError"] == "Unhandled" and "killed by the test at ec2:ReplaceRoute" in out["value"]["errorMessage"]
    assert targets(kit, names) == [new, old]
    assert kit.runs(function)[0]["status"] == "killed"
    entries = [e for e in kit.cloud.audit.after(0) if e["caller"].get("function") == function]
    assert [(e["action"], e["applied"]) for e in entries] == [("ReplaceRoute", True), ("ReplaceRoute", False)]


def test_killed_right_after_the_write_was_applied(kit: Kit) -> None:
    names, _, new = tables(kit)
    function = kit.function(WRITER, statements=MAY_ROUTE, Timeout=20)
    fault(kit, kind="kill_caller", service="ec2", action="ReplaceRoute", skip=1, count=1, when="after", caller=function)
    assert kit.invoke(function, {"tables": names, "eni": new})["FunctionError"] == "Unhandled"
    assert targets(kit, names) == [new, new]


def test_a_dead_runs_write_lands_late(kit: Kit) -> None:
    names, old, new = tables(kit)
    function = kit.function(WRITER, statements=MAY_ROUTE, Timeout=20)
    rule = fault(kit, kind="lambda_detach", service="ec2", action="ReplaceRoute", count=1)
    assert kit.invoke(function, {"tables": names, "eni": new})["FunctionError"] == "Unhandled"
    assert targets(kit, names) == [old, old]
    kit.control("POST", f"faults/{rule}/release")
    until(lambda: targets(kit, names) == [new, old])
    late = until(lambda: [e for e in kit.cloud.audit.after(0) if e["caller"].get("function") == function])[-1]
    assert late["applied"] and late["fault"] == f"lambda_detach {rule}"


@pytest.mark.parametrize(
    "spec",
    [{"kind": "explode"}, {"kind": "drop", "colour": "red"}, {"kind": "duplicate", "service": "ec2"}, {"kind": "throttle", "action": "Deliver"}, [], "x",
     {"kind": "drop", "params": {"a": 1}}, {"kind": "kill_caller", "when": "later"}],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(kit: Kit, spec: Any) -> None:
    if spec == []:
        assert kit.control("POST", "faults", spec) == []
        return
    with pytest.raises(AssertionError, match="400"):
        kit.control("POST", "faults", spec)


def test_waiting_calls_do_not_spin(kit: Kit) -> None:
    table = kit.table()
    rule = fault(kit, kind="pause", service="dynamodb", action="PutItem")
    threads = [threading.Thread(target=put, args=(kit, table, n)) for n in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(kit.control("GET", "faults")[0]["held"]) == 4)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1
    kit.control("DELETE", f"faults/{rule}")
    for thread in threads:
        thread.join()


def test_token_buckets_as_documented() -> None:
    from localcloud.throttling import Buckets

    buckets, route, filtered = Buckets(), {"RouteTableId": "rtb-1"}, {"Filter.1.Name": "vpc-id"}
    assert sum(buckets.take("r", "ReplaceRoute", route, now=0.0) for _ in range(60)) == 50
    assert sum(buckets.take("r", "ReplaceRoute", route, now=2.0) for _ in range(60)) == 10, "5 tokens a second"
    assert sum(buckets.take("r", "DescribeRouteTables", filtered, now=2.0) for _ in range(200)) == 100
    assert sum(buckets.take("r", "DescribeRouteTables", {}, now=2.0) for _ in range(200)) == 50, "unfiltered has a smaller one of its own"
    assert buckets.take("other", "ReplaceRoute", route, now=2.0)


def test_ec2_throttling_is_a_knob(kit: Kit) -> None:
    kit.cloud.knobs.set({"ec2_throttling": True})
    ec2, refused = kit.client("ec2", region="sa-east-1"), 0
    for _ in range(60):
        try:
            ec2.describe_vpcs()
        except ClientError as error:
            assert error.response["Error"]["Code"] == "RequestLimitExceeded"
            refused += 1
    assert refused > 0
