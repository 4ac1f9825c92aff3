"""From an API call to the questions IAM asks about it: action, resources, condition keys, per service."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from moto.dynamodb.models import dynamodb_backends
from moto.ec2.models import ec2_backends

from . import ACCOUNT
from .api_call import Call
from .credentials import Principal
from .iam import Check

# Condition keys this evaluator fills. Any other key in a policy is refused loudly.
KNOWN_KEYS = {
    "dynamodb:leadingkeys", "dynamodb:attributes", "dynamodb:returnvalues", "dynamodb:select", "dynamodb:returnconsumedcapacity",
    "events:source", "events:detail-type", "events:eventbusinvocation", "ec2:vpc", "ec2:region", "aws:requestedregion", "aws:principalarn",
    "aws:principalaccount", "aws:username", "aws:userid", "aws:sourceip", "aws:currenttime", "aws:securetransport",
    "route53:changeresourcerecordsetsnormalizedrecordnames", "route53:changeresourcerecordsetsrecordtypes",
    "route53:changeresourcerecordsetsactions", "ec2:sourceinstancearn", "aws:ec2instancesourcevpc", "aws:ec2instancesourceprivateipv4",
}  # fmt: skip
KNOWN_PREFIXES = ("aws:resourcetag/", "ec2:resourcetag/", "aws:requesttag/", "aws:principaltag/")

S3_ACTIONS = {"ListObjectsV2": "ListBucket", "ListObjects": "ListBucket", "HeadBucket": "ListBucket", "HeadObject": "GetObject",
              "GetBucketEncryption": "GetEncryptionConfiguration", "ListBuckets": "ListAllMyBuckets", "CreateMultipartUpload": "PutObject",
              "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject", "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration"}  # fmt: skip

# EC2 actions judged on resources: parameter that names the resource, type in the ARN.
EC2_RESOURCES = {
    "RouteTableId": "route-table", "NetworkInterfaceId": "network-interface", "InstanceId": "instance", "SubnetId": "subnet", "VpcId": "vpc",
    "TransitGatewayRouteTableId": "transit-gateway-route-table", "GroupId": "security-group",
}  # fmt: skip
# For these the listed parameter is the resource that permission is checked on; other ids in the call are only targets.
EC2_SUBJECT = {
    "ReplaceRoute": ["RouteTableId"], "CreateRoute": ["RouteTableId"], "DeleteRoute": ["RouteTableId"],
    "ModifyNetworkInterfaceAttribute": ["NetworkInterfaceId"], "AssignPrivateIpAddresses": ["NetworkInterfaceId"],
    "UnassignPrivateIpAddresses": ["NetworkInterfaceId"], "StopInstances": ["InstanceId"], "StartInstances": ["InstanceId"],
    "TerminateInstances": ["InstanceId"], "RebootInstances": ["InstanceId"], "ModifyInstanceAttribute": ["InstanceId"],
    "ReplaceTransitGatewayRoute": ["TransitGatewayRouteTableId"], "CreateTransitGatewayRoute": ["TransitGatewayRouteTableId"],
}  # fmt: skip


def known_key(key: str) -> bool:
    return key in KNOWN_KEYS or key.startswith(KNOWN_PREFIXES)


def checks(call: Call, principal: Principal) -> list[Check]:
    """All of them must be allowed. Empty: no permission needed (sts:GetCallerIdentity)."""
    context: dict[str, list[str]] = {
        "aws:requestedregion": [call.region],
        "aws:principalarn": [principal.role_arn or principal.arn],
        "aws:principalaccount": [ACCOUNT],
        "aws:sourceip": [call.request.peer],
        "aws:securetransport": ["false"],
    }
    action = f"{call.service}:{call.action}"
    if call.service == "dynamodb":
        return [Check(action, arn, {**context, **dynamodb_context(call)}) for arn in table_arns(call)]
    if call.service == "ec2":
        return ec2_checks(call, action, context)
    if call.service == "events":
        return events_checks(call, action, context)
    if call.service == "lambda":
        name = call.params.get("FunctionName")
        verb = {"Invoke": "lambda:InvokeFunction", "InvokeAsync": "lambda:InvokeFunction"}.get(call.action, action)
        arn = f"arn:aws:lambda:{call.region}:{ACCOUNT}:function:{name.split(':function:')[-1]}" if isinstance(name, str) else "*"
        return [Check(verb, arn, context)]
    if call.service == "logs":
        group = call.params.get("logGroupName") or "*"
        arn = f"arn:aws:logs:{call.region}:{ACCOUNT}:log-group:{group}"
        stream = call.params.get("logStreamName")
        return [Check(action, f"{arn}:log-stream:{stream}" if stream else f"{arn}:*", context)]
    if call.service == "route53":
        return [route53_check(call, action, context)]
    if call.service == "sts":
        if call.action == "GetCallerIdentity":
            return []
        return [Check(action, call.params.get("RoleArn", "*"), context)]
    if call.service == "s3":
        return [Check(f"s3:{S3_ACTIONS.get(call.action, call.action)}", None, context)]
    return [Check(action, None, context)]  # judged by action only; see README, gaps


# --- DynamoDB ---


def table_arns(call: Call) -> list[str]:
    names = {call.params["TableName"]} if "TableName" in call.params else set()
    names |= set((call.params.get("RequestItems") or {}).keys())
    for entry in call.params.get("TransactItems") or []:
        names |= {inner["TableName"] for inner in entry.values() if "TableName" in inner}
    names = {n.split(":table/")[-1] for n in names}
    base = f"arn:aws:dynamodb:{call.region}:{ACCOUNT}:table/"
    if not names:
        return ["*"]
    index = call.params.get("IndexName")
    return [base + n + (f"/index/{index}" if index else "") for n in sorted(names)]


NAME_TOKEN = re.compile(r"(?<![:\w#.])([A-Za-z_#][\w#]*)")
EXPRESSION_WORDS = {"set", "remove", "add", "delete", "and", "or", "not", "between", "in", "if_not_exists", "list_append",
                    "attribute_exists", "attribute_not_exists", "attribute_type", "begins_with", "contains", "size"}  # fmt: skip
EXPRESSIONS = ("UpdateExpression", "ConditionExpression", "ProjectionExpression", "FilterExpression", "KeyConditionExpression")


def expression_attributes(expression: str, names: dict[str, str]) -> set[str]:
    """Top-level attribute names in an expression (`#h.#epoch` names h only)."""
    found = set()
    for token in NAME_TOKEN.findall(expression):
        if token.lower() not in EXPRESSION_WORDS:
            found.add(names.get(token, token))
    return found


def dynamodb_operations(call: Call) -> list[dict[str, Any]]:
    """The single operations in a call: itself, or the members of a batch or transaction."""
    out: list[dict[str, Any]] = []
    for table, requests in (call.params.get("RequestItems") or {}).items():
        if isinstance(requests, dict):  # BatchGetItem
            shared = {k: v for k, v in requests.items() if k != "Keys"}
            out += [{"TableName": table, "Key": key, **shared} for key in requests.get("Keys", [])]
        else:  # BatchWriteItem
            out += [{"TableName": table, **inner} for request in requests for inner in request.values()]
    for entry in call.params.get("TransactItems") or []:
        out += list(entry.values())
    return out or [call.params]


def dynamodb_context(call: Call) -> dict[str, list[str]]:
    leading: list[str] = []
    attributes: set[str] = set()
    for operation in dynamodb_operations(call):
        names = operation.get("ExpressionAttributeNames") or {}
        for expression in EXPRESSIONS:
            attributes |= expression_attributes(operation.get(expression) or "", names)
        attributes |= set(operation.get("AttributesToGet") or [])
        for legacy in ("AttributeUpdates", "Expected", "KeyConditions", "QueryFilter", "ScanFilter"):
            attributes |= set(operation.get(legacy) or {})
        item = operation.get("Key") or operation.get("Item") or {}
        attributes |= set(item)
        table = dynamodb_backends[ACCOUNT][call.region].tables.get(operation.get("TableName", "").split(":table/")[-1])
        if table is None:
            continue
        hash_key = table.hash_key_attr
        if hash_key in item:
            leading.append(str(next(iter(item[hash_key].values()))))
        condition = operation.get("KeyConditionExpression") or ""
        values = operation.get("ExpressionAttributeValues") or {}
        for name, ref in re.findall(r"([#\w]+)\s*=\s*(:\w+)", condition):
            if names.get(name, name) == hash_key and ref in values:
                leading.append(str(next(iter(values[ref].values()))))
        legacy_key = (operation.get("KeyConditions") or {}).get(hash_key)
        if legacy_key:
            leading += [str(next(iter(v.values()))) for v in legacy_key.get("AttributeValueList", [])]
    context = {"dynamodb:leadingkeys": leading, "dynamodb:attributes": sorted(attributes)}
    for parameter in ("ReturnValues", "Select", "ReturnConsumedCapacity"):
        if parameter in call.params:
            context[f"dynamodb:{parameter.lower()}"] = [call.params[parameter]]
    return {key: values for key, values in context.items() if values}


# --- EC2 ---


def ec2_checks(call: Call, action: str, context: dict[str, list[str]]) -> list[Check]:
    context = {**context, "ec2:region": [call.region]}
    if call.action.startswith(("Describe", "Get", "List", "Search")):
        return [Check(action, "*", context)]
    subjects = EC2_SUBJECT.get(call.action)
    if subjects is None:
        return [Check(action, None, context)]
    ids = []
    for parameter in subjects:
        ids += [v for k, v in call.params.items() if k == parameter or re.fullmatch(parameter + r"\.\d+", k)]
        kind = EC2_RESOURCES[parameter]
    if not ids:
        return [Check(action, "*", context)]
    out = []
    for resource_id in ids:
        tags = ec2_tags(call.region, resource_id)
        keyed = {f"aws:resourcetag/{k.lower()}": [v] for k, v in tags.items()} | {f"ec2:resourcetag/{k.lower()}": [v] for k, v in tags.items()}
        vpc = ec2_vpc(call.region, resource_id)
        if vpc:
            keyed["ec2:vpc"] = [f"arn:aws:ec2:{call.region}:{ACCOUNT}:vpc/{vpc}"]
        out.append(Check(action, f"arn:aws:ec2:{call.region}:{ACCOUNT}:{kind}/{resource_id}", {**context, **keyed}))
    return out


def ec2_tags(region: str, resource_id: str) -> dict[str, str]:
    return dict(ec2_backends[ACCOUNT][region].tags.get(resource_id, {}))


def ec2_vpc(region: str, resource_id: str) -> str | None:
    backend = ec2_backends[ACCOUNT][region]
    if resource_id.startswith("rtb-"):
        table = backend.route_tables.get(resource_id)
        return table.vpc_id if table else None
    if resource_id.startswith("eni-"):
        eni = backend.enis.get(resource_id)
        return eni.subnet.vpc_id if eni else None
    return None


# --- EventBridge, Route 53 ---


def events_checks(call: Call, action: str, context: dict[str, list[str]]) -> list[Check]:
    base = f"arn:aws:events:{call.region}:{ACCOUNT}:"
    if call.action != "PutEvents":
        return [Check(action, None, context)]
    out = []
    for entry in call.params.get("Entries") or []:
        bus = (entry.get("EventBusName") or "default").split(":event-bus/")[-1]
        keys = {"events:source": [entry.get("Source", "")], "events:detail-type": [entry.get("DetailType", "")],
                "events:eventbusinvocation": ["false"]}  # fmt: skip
        out.append(Check(action, f"{base}event-bus/{bus}", {**context, **keys}))
    return out or [Check(action, "*", context)]


def route53_check(call: Call, action: str, context: dict[str, list[str]]) -> Check:
    zone = re.search(r"/hostedzone/([^/?]+)", unquote(call.request.raw_path))
    resource = f"arn:aws:route53:::hostedzone/{zone[1]}" if zone else "*"
    if call.action == "ChangeResourceRecordSets":
        body = call.request.body.decode("utf-8", "replace")
        context = dict(context)
        for key, tag in (("normalizedrecordnames", "Name"), ("actions", "Action"), ("recordtypes", "Type")):
            values = re.findall(f"<{tag}>([^<]*)</{tag}>", body)
            if key == "normalizedrecordnames":
                values = [v.rstrip(".").lower() for v in values]
            context["route53:changeresourcerecordsets" + key] = values
    return Check(action, resource, context)
