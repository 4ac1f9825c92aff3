"""The policy evaluator: AWS's evaluation logic and condition operators, and what a leasehold node may do."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.iam import Check, PolicyError, evaluate, trust_allows
from localcloud.iam_context import expression_attributes, known_key

from .conftest import REGION, Kit


def judge(statements: Any, action: str = "dynamodb:GetItem", resource: str | None = "arn:aws:dynamodb:r:1:table/t", **context: list[str]) -> bool:
    keys = {k.replace("__", ":").replace("_", "-") if "__" in k else k: v for k, v in context.items()}
    return evaluate([json.dumps({"Version": "2012-10-17", "Statement": statements})], Check(action, resource, keys), known_key).allowed


def allow(**more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*", **more}


def test_nothing_is_allowed_by_default_and_a_deny_wins() -> None:
    assert not judge([])
    assert judge([allow()])
    assert not judge([allow(), {"Effect": "Deny", "Action": "dynamodb:GetItem", "Resource": "*"}])


def test_actions_and_resources_have_wildcards_and_negations() -> None:
    assert judge([allow(Action=["dynamodb:G?tItem"])])
    assert judge([allow(Action="DynamoDB:getitem")]), "actions ignore case"
    assert not judge([allow(Resource="arn:aws:dynamodb:r:1:table/T")]), "resources do not"
    assert not judge([allow(Resource="arn:aws:dynamodb:*:*:table/u*")])
    assert judge([{"Effect": "Allow", "NotAction": "dynamodb:PutItem", "Resource": "*"}])
    assert not judge([{"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:dynamodb:*:*:table/t"}])


@pytest.mark.parametrize(
    ("operator", "wanted", "have", "holds"),
    [
        ("StringEquals", "a", ["a"], True),
        ("StringEquals", "a", None, False),
        ("StringEqualsIfExists", "a", None, True),
        ("StringEqualsIfExists", "a", ["b"], False),
        ("StringNotEquals", "a", None, True),
        ("StringNotEquals", ["a", "b"], ["b"], False),
        ("StringLike", "web/*", ["web/a"], True),
        ("StringLike", "web/[a]", ["web/a"], False),
        ("StringEqualsIgnoreCase", "A", ["a"], True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a"], True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "c"], False),
        ("ForAllValues:StringEquals", ["a"], None, True),
        ("ForAnyValue:StringEquals", ["a"], ["c", "a"], True),
        ("ForAnyValue:StringEquals", ["a"], None, False),
        ("ForAnyValue:StringNotEquals", ["a"], ["a", "b"], True),
        ("ForAllValues:StringNotEquals", ["a"], ["a", "b"], False),
        ("Null", "true", None, True),
        ("Null", "false", None, False),
        ("Null", "false", ["x"], True),
        ("ArnLike", "arn:aws:ec2:*:*:vpc/vpc-1", ["arn:aws:ec2:r:1:vpc/vpc-1"], True),
        ("ArnLike", "arn:aws:*:vpc/vpc-1", ["arn:aws:ec2:r:1:vpc/vpc-1"], False),
        ("NumericLessThan", "10", ["9"], True),
        ("NumericEquals", 10, ["10.0"], True),
        ("Bool", True, ["true"], True),
        ("IpAddress", "10.0.0.0/8", ["10.1.2.3"], True),
        ("NotIpAddress", "10.0.0.0/8", ["10.1.2.3"], False),
    ],
)
def test_condition_operators(operator: str, wanted: Any, have: list[str] | None, holds: bool) -> None:
    context = {} if have is None else {"dynamodb:leadingkeys": have}
    check = Check("dynamodb:GetItem", "arn:aws:dynamodb:r:1:table/t", context)
    document = json.dumps({"Statement": allow(Condition={operator: {"dynamodb:LeadingKeys": wanted}})})
    assert evaluate([document], check, known_key).allowed is holds


def test_all_conditions_of_a_statement_must_hold() -> None:
    both = {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["a"], "dynamodb:Attributes": ["x"]}, "Null": {"dynamodb:LeadingKeys": "false"}}
    document = json.dumps({"Statement": allow(Condition=both)})

    def with_keys(keys: dict[str, list[str]]) -> bool:
        return evaluate([document], Check("dynamodb:GetItem", "arn:aws:dynamodb:r:1:table/t", keys), known_key).allowed

    assert with_keys({"dynamodb:leadingkeys": ["a"], "dynamodb:attributes": ["x"]})
    assert not with_keys({"dynamodb:leadingkeys": ["a"], "dynamodb:attributes": ["x", "y"]})
    assert not with_keys({"dynamodb:attributes": ["x"]})


def test_policy_variables() -> None:
    document = json.dumps({"Statement": allow(Condition={"StringEquals": {"dynamodb:LeadingKeys": "${aws:PrincipalTag/node}"}})})
    context = {"dynamodb:leadingkeys": ["web/a"], "aws:principaltag/node": ["web/a"]}
    assert evaluate([document], Check("dynamodb:GetItem", "arn:aws:dynamodb:r:1:table/t", context), known_key).allowed
    context.pop("aws:principaltag/node")
    assert not evaluate([document], Check("dynamodb:GetItem", "arn:aws:dynamodb:r:1:table/t", context), known_key).allowed


def test_what_is_not_known_is_an_error_not_a_guess() -> None:
    with pytest.raises(PolicyError):
        judge([allow(Condition={"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}})])
    with pytest.raises(PolicyError):
        judge([allow(Condition={"StringEquals": {"dynamodb:NoSuchKey": "x"}})])
    with pytest.raises(PolicyError):
        judge([allow(Principal="*")])


def test_trust_policies() -> None:
    def trust(**statement: Any) -> dict[str, Any]:
        return {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", **statement}]}

    assert trust_allows(trust(Principal={"Service": ["ec2.amazonaws.com"]}), "ec2.amazonaws.com")
    assert not trust_allows(trust(Principal={"Service": "lambda.amazonaws.com"}), "ec2.amazonaws.com")
    assert not trust_allows(trust(Principal={"AWS": "arn:aws:iam::1:root"}), "ec2.amazonaws.com")


def test_attributes_named_in_expressions() -> None:
    names = {"#r": "rev", "#h": "holder", "#t": "ttl_ms"}
    update = "SET #r = :new, #h.#inner = :h, beat = if_not_exists(beat, :zero) REMOVE intent"
    assert expression_attributes(update, {**names, "#inner": "node"}) == {"rev", "holder", "beat", "intent"}
    assert expression_attributes("attribute_not_exists(#r) OR (#r = :old AND #t BETWEEN :a AND :b)", names) == {"rev", "ttl_ms"}
    assert expression_attributes("", names) == set()


# --- at the front door: the grant of a leasehold node ---

ROW = ["cluster", "item", "rev", "epoch", "holder", "beat"]
BEAT = ["cluster", "item", "v", "seq", "state"]


def node_policy(table: str, bus: str) -> list[dict[str, Any]]:
    arn = f"arn:aws:dynamodb:{REGION}:123456789012:table/{table}"

    def update(keys: list[str], attributes: list[str]) -> dict[str, Any]:
        return {"Effect": "Allow", "Action": "dynamodb:UpdateItem", "Resource": arn,
                "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": keys, "dynamodb:Attributes": attributes},
                              "StringEqualsIfExists": {"dynamodb:ReturnValues": "NONE"}, "Null": {"dynamodb:LeadingKeys": "false"}}}  # fmt: skip

    return [
        {"Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": arn, "Condition": {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["web", "web/*"]}}},
        update(["web"], ROW),
        update(["web/a"], BEAT),
        {"Effect": "Allow", "Action": "events:PutEvents", "Resource": f"arn:aws:events:{REGION}:123456789012:event-bus/{bus}",
         "Condition": {"StringEquals": {"events:source": "leasehold"}}},
    ]  # fmt: skip


@pytest.fixture
def node(kit: Kit) -> dict[str, Any]:
    table, bus = kit.table(), "bus-" + uuid.uuid4().hex[:8]
    kit.client("events").create_event_bus(Name=bus)
    keys = kit.keys(node_policy(table, bus), "i-0123456789abcdef0")
    return {"table": table, "bus": bus, "keys": keys, "db": kit.client("dynamodb", keys=keys), "events": kit.client("events", keys=keys)}


def write(node: dict[str, Any], cluster: str, item: str, expression: str, values: dict[str, Any], names: dict[str, str] | None = None, **more: Any) -> Any:
    if names:
        more["ExpressionAttributeNames"] = names
    return node["db"].update_item(TableName=node["table"], Key={"cluster": {"S": cluster}, "item": {"S": item}}, UpdateExpression=expression,
                                  ExpressionAttributeValues=values, **more)  # fmt: skip


def denied(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call(*arguments, **named)
    return refused.value.response["Error"]["Code"]


def test_a_node_may_do_what_it_is_granted(node: dict[str, Any]) -> None:
    write(node, "web", "lease", "SET #r = :r", {":r": {"N": "1"}}, {"#r": "rev"}, ConditionExpression="attribute_not_exists(#r)", ReturnValuesOnConditionCheckFailure="ALL_OLD")
    write(node, "web/a", "node", "SET seq = :s, #st = :t", {":s": {"N": "1"}, ":t": {"S": "{}"}}, {"#st": "state"})
    assert node["db"].get_item(TableName=node["table"], Key={"cluster": {"S": "web/b"}, "item": {"S": "node"}}, ConsistentRead=True)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert node["events"].put_events(Entries=[{"Source": "leasehold", "DetailType": "Node Joined", "Detail": "{}", "EventBusName": node["bus"]}])["FailedEntryCount"] == 0


def test_a_node_may_not_write_other_keys_or_attributes(node: dict[str, Any]) -> None:
    one = {":x": {"N": "1"}}
    assert denied(write, node, "other", "lease", "SET rev = :x", one) == "AccessDeniedException"
    assert denied(write, node, "web/b", "node", "SET seq = :x", one) == "AccessDeniedException"
    assert denied(write, node, "web", "lease", "SET lineage = :x", one) == "AccessDeniedException"
    assert denied(write, node, "web", "lease", "SET #n = :x", one, {"#n": "paused"}) == "AccessDeniedException", "through ExpressionAttributeNames"
    assert denied(write, node, "web", "lease", "SET rev = :x", one, ConditionExpression="paused <> :x") == "AccessDeniedException", "conditions name attributes too"
    assert denied(write, node, "web", "lease", "SET rev = :x", one, ReturnValues="ALL_OLD") == "AccessDeniedException"


def test_a_node_may_not_do_anything_else(kit: Kit, node: dict[str, Any]) -> None:
    db = node["db"]
    key = {"cluster": {"S": "web"}, "item": {"S": "lease"}}
    assert denied(db.put_item, TableName=node["table"], Item=key) == "AccessDeniedException"
    assert denied(db.delete_item, TableName=node["table"], Key=key) == "AccessDeniedException"
    assert denied(db.scan, TableName=node["table"]) == "AccessDeniedException"
    assert denied(db.get_item, TableName=node["table"], Key={"cluster": {"S": "webb"}, "item": {"S": "lease"}}) == "AccessDeniedException"
    assert denied(db.get_item, TableName=kit.table(), Key=key) == "AccessDeniedException"
    ec2 = kit.client("ec2", keys=node["keys"])
    assert denied(ec2.replace_route, RouteTableId="rtb-1", DestinationCidrBlock="10.99.0.10/32", NetworkInterfaceId="eni-1") == "UnauthorizedOperation"
    assert denied(ec2.describe_instances) == "UnauthorizedOperation"
    entry = {"Source": "leasehold", "DetailType": "x", "Detail": "{}", "EventBusName": node["bus"]}
    assert denied(node["events"].put_events, Entries=[{**entry, "Source": "somebody"}]) == "AccessDeniedException"
    assert denied(node["events"].put_events, Entries=[entry, {**entry, "EventBusName": "default"}]) == "AccessDeniedException", "every entry counts"
    assert denied(kit.client("lambda", keys=node["keys"]).invoke, FunctionName="x") == "AccessDeniedException"
    assert denied(kit.client("route53", keys=node["keys"]).list_hosted_zones) == "AccessDenied"
    assert denied(kit.client("iam", keys=node["keys"]).list_roles) == "AccessDenied"


def test_resource_tags_and_arns_of_route_tables(kit: Kit) -> None:
    net, other = kit.vpc(), kit.vpc()
    ec2 = kit.client("ec2")
    eni = ec2.create_network_interface(SubnetId=net["subnets"][0])["NetworkInterface"]["NetworkInterfaceId"]
    ec2.create_tags(Resources=[net["table"]], Tags=[{"Key": "leasehold", "Value": "web"}])
    tagged = {"Effect": "Allow", "Action": "ec2:CreateRoute", "Resource": "*", "Condition": {"StringEquals": {"aws:ResourceTag/leasehold": "web"}}}
    listed = {"Effect": "Allow", "Action": "ec2:CreateRoute", "Resource": f"arn:aws:ec2:{REGION}:123456789012:route-table/{net['table']}"}
    for index, statement in enumerate((tagged, listed)):
        mine = kit.client("ec2", keys=kit.keys([statement]))
        mine.create_route(RouteTableId=net["table"], DestinationCidrBlock=f"10.99.0.{index}/32", NetworkInterfaceId=eni)
        assert denied(mine.create_route, RouteTableId=other["table"], DestinationCidrBlock="10.99.0.10/32", NetworkInterfaceId=eni) == "UnauthorizedOperation"


def test_route53_record_keys(kit: Kit) -> None:
    zone = kit.client("route53").create_hosted_zone(Name="example.internal", CallerReference=uuid.uuid4().hex)["HostedZone"]["Id"]
    statement = {"Effect": "Allow", "Action": "route53:ChangeResourceRecordSets", "Resource": "arn:aws:route53:::hostedzone/*",
                 "Condition": {"ForAllValues:StringEquals": {"route53:ChangeResourceRecordSetsNormalizedRecordNames": ["db.example.internal"],
                                                             "route53:ChangeResourceRecordSetsRecordTypes": ["A"]}}}  # fmt: skip
    mine = kit.client("route53", keys=kit.keys([statement]))

    def upsert(name: str, kind: str = "A", value: str = "10.0.0.1") -> Any:
        record = {"Name": name, "Type": kind, "TTL": 5, "ResourceRecords": [{"Value": value}]}
        return mine.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]})

    upsert("DB.example.internal.")
    assert denied(upsert, "other.example.internal") == "AccessDenied"
    assert denied(upsert, "db.example.internal", "TXT", '"x"') == "AccessDenied"


def test_unknown_and_forged_credentials(kit: Kit) -> None:
    db = kit.client("dynamodb", keys={"AccessKeyId": "ASIANOBODYNOBODY0000", "SecretAccessKey": "x", "Token": "y"})
    assert denied(db.list_tables) == "UnrecognizedClientException"
    keys = kit.keys([{"Effect": "Allow", "Action": "*", "Resource": "*"}])
    assert denied(kit.client("dynamodb", keys={**keys, "Token": "forged"}).list_tables) == "UnrecognizedClientException"


def test_a_policy_that_cannot_be_judged_stops_the_call_loudly(kit: Kit) -> None:
    keys = kit.keys([{"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*", "Condition": {"StringEquals": {"dynamodb:Mystery": "x"}}}])
    with pytest.raises(ClientError) as refused:
        kit.client("dynamodb", keys=keys).list_tables()
    with pytest.raises(ClientError) as again:
        kit.client("dynamodb", keys=keys).get_item(TableName=kit.table(), Key={"cluster": {"S": "a"}, "item": {"S": "b"}})
    assert "Mystery" in again.value.response["Error"]["Message"], refused.value
