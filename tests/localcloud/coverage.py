"""What this cloud honours of the calls that the product makes. A parameter that moto would silently skip is refused instead.

Only the actions that matter to leasehold are listed; on others moto's own NotImplementedError is the guard, and a parameter
of theirs may be ignored (README: gaps). To use one more parameter, make sure it works, test it, and add it here.
"""

from __future__ import annotations

import re

from .api_call import Call

# Parameter names as sent: JSON members, or query names up to the first dot.
HONOURED: dict[str, set[str]] = {
    "dynamodb:GetItem": {"TableName", "Key", "ConsistentRead", "ProjectionExpression", "ExpressionAttributeNames", "ReturnConsumedCapacity"},
    "dynamodb:UpdateItem": {"TableName", "Key", "UpdateExpression", "ConditionExpression", "ExpressionAttributeNames", "ExpressionAttributeValues",
                            "ReturnValues", "ReturnValuesOnConditionCheckFailure", "ReturnConsumedCapacity", "ReturnItemCollectionMetrics"},
    "dynamodb:PutItem": {"TableName", "Item", "ConditionExpression", "ExpressionAttributeNames", "ExpressionAttributeValues", "ReturnValues",
                         "ReturnValuesOnConditionCheckFailure", "ReturnConsumedCapacity", "ReturnItemCollectionMetrics"},
    "dynamodb:DeleteItem": {"TableName", "Key", "ConditionExpression", "ExpressionAttributeNames", "ExpressionAttributeValues", "ReturnValues",
                            "ReturnValuesOnConditionCheckFailure", "ReturnConsumedCapacity", "ReturnItemCollectionMetrics"},
    "dynamodb:Query": {"TableName", "KeyConditionExpression", "FilterExpression", "ProjectionExpression", "ExpressionAttributeNames",
                       "ExpressionAttributeValues", "ConsistentRead", "Limit", "ScanIndexForward", "ExclusiveStartKey", "Select", "IndexName",
                       "ReturnConsumedCapacity"},
    "events:PutEvents": {"Entries"},
    "ec2:ReplaceRoute": {"RouteTableId", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "NetworkInterfaceId", "GatewayId", "InstanceId",
                         "TransitGatewayId", "NatGatewayId", "VpcPeeringConnectionId", "EgressOnlyInternetGatewayId", "DryRun"},
    "ec2:CreateRoute": {"RouteTableId", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "NetworkInterfaceId", "GatewayId", "InstanceId",
                        "TransitGatewayId", "NatGatewayId", "VpcPeeringConnectionId", "EgressOnlyInternetGatewayId", "DryRun"},
    "ec2:DeleteRoute": {"RouteTableId", "DestinationCidrBlock", "DestinationIpv6CidrBlock", "DryRun"},
    "ec2:DescribeRouteTables": {"RouteTableId", "Filter", "DryRun"},
    "ec2:DescribeInstances": {"InstanceId", "Filter", "MaxResults", "NextToken", "DryRun"},
    "ec2:DescribeNetworkInterfaces": {"NetworkInterfaceId", "Filter", "DryRun"},
    "ec2:DescribeVpcs": {"VpcId", "Filter", "DryRun"},
    "ec2:DescribeSubnets": {"SubnetId", "Filter", "DryRun"},
    "ec2:ModifyNetworkInterfaceAttribute": {"NetworkInterfaceId", "SourceDestCheck", "SecurityGroupId", "Description", "DryRun"},
    "ec2:StopInstances": {"InstanceId", "Force", "SkipOsShutdown", "DryRun"},
    "ec2:StartInstances": {"InstanceId", "DryRun"},
    "ec2:TerminateInstances": {"InstanceId", "SkipOsShutdown", "Force", "DryRun"},
    "ec2:RebootInstances": {"InstanceId", "DryRun"},
}  # fmt: skip
# Filters that work. moto would judge an unknown one only when there is something to filter.
FILTERS: dict[str, set[str]] = {
    "DescribeRouteTables": {"association.main", "association.subnet-id", "association.route-table-id", "association.route-table-association-id",
                            "route-table-id", "vpc-id", "route.destination-cidr-block", "route.destination-ipv6-cidr-block", "route.gateway-id", "route.instance-id", "route.nat-gateway-id",
                            "route.transit-gateway-id", "route.vpc-peering-connection-id", "route.origin", "route.state"},
    "DescribeInstances": {"instance-id", "instance-state-name", "vpc-id", "subnet-id", "private-ip-address", "availability-zone", "instance-type",
                          "image-id", "group-id", "key-name", "source-dest-check"},
    "DescribeNetworkInterfaces": {"network-interface-id", "attachment.instance-id", "private-ip-address", "subnet-id", "vpc-id", "status", "group-id",
                                  "availability-zone", "description"},
    "DescribeVpcs": {"vpc-id", "cidr", "isDefault", "is-default", "state"},
    "DescribeSubnets": {"subnet-id", "vpc-id", "cidr-block", "availability-zone", "state"},
}  # fmt: skip
ENTRY_HONOURED = {"Source", "DetailType", "Detail", "EventBusName", "Resources", "Time"}
# Paginated describes that moto does not page: asking for pages is harmless, one page holds everything.
PAGING = {"MaxResults", "NextToken"}


def gap(call: Call) -> str | None:
    """None, or what this request asks for and would not get."""
    if not call.action:
        return f"this request to {call.service} ({call.request.method} {call.request.raw_path[:80]})"
    name = f"{call.service}:{call.action}"
    honoured = HONOURED.get(name)
    if honoured is None:
        return None
    asked = {re.split(r"\.", key)[0] for key in call.params}
    unknown = asked - honoured - (PAGING if ":Describe" in name else set())
    if name == "events:PutEvents":
        for entry in call.params.get("Entries") or []:
            unknown |= set(entry) - ENTRY_HONOURED - {"TraceHeader"}
    if unknown:
        return f"parameter {', '.join(sorted(unknown))} of {name}"
    if call.action in FILTERS:
        names = {v for k, v in call.params.items() if re.fullmatch(r"Filter\.\d+\.Name", k)}
        filters = {n for n in names if n not in FILTERS[call.action] and not n.startswith("tag:") and n != "tag-key"}
        return f"filter {', '.join(sorted(filters))} of {name}" if filters else None
    return None
