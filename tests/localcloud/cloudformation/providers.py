"""How each resource type is made, changed and removed: through the cloud's own API, as the stack's role.

A type lists the properties it honours. Anything else is refused before the stack is touched.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Made:
    physical: str
    attributes: Json = field(default_factory=dict)
    ref: str | None = None  # what Ref answers, where it is not the physical id


@dataclass
class Context:
    client: Callable[[str], Any]  # boto3 client by service
    region: str
    account: str
    stack: str
    logical: str
    kind: str = ""

    def name(self, limit: int = 64) -> str:
        """A generated name, as CloudFormation makes them: stack, logical id, something random."""
        tail = "-" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(12))
        return f"{self.stack}-{self.logical}"[: limit - len(tail)] + tail

    def arn(self, service: str, rest: str) -> str:
        return f"arn:aws:{service}:{self.region}:{self.account}:{rest}"


class Replacement(Exception):
    """This change cannot be made in place: a new resource is made and the old one removed at the end."""


class Provider:
    properties: set[str] = set()
    replace_on: set[str] = set()  # a change of these makes a new resource
    attributes: set[str] = set()  # what Fn::GetAtt may ask for; checked before anything is made

    def create(self, ctx: Context, props: Json) -> Made:
        raise NotImplementedError

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        raise Replacement

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        raise NotImplementedError


REGISTRY: dict[str, Provider] = {}


def provides(kind: str) -> Callable[[type[Provider]], type[Provider]]:
    def register(cls: type[Provider]) -> type[Provider]:
        REGISTRY[kind] = cls()
        return cls

    return register


def find(kind: str) -> Provider | None:
    if kind.startswith("Custom::") or kind == "AWS::CloudFormation::CustomResource":
        return REGISTRY["Custom"]
    return REGISTRY.get(kind)


def pick(props: Json, *names: str) -> Json:
    return {n: props[n] for n in names if n in props}


def text(document: Any) -> str:
    return document if isinstance(document, str) else json.dumps(document)


def tag_list(props: Json) -> Json:
    return {"Tags": props["Tags"]} if props.get("Tags") else {}


def absent(error: Exception) -> bool:
    """Is this 'there is none' of a delete, which deleting twice should not fail on?"""
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    return any(part in code for part in ("NotFound", "NoSuch", "NonExistent", "QueueDoesNotExist"))


def gone(call: Callable[..., Any], **arguments: Any) -> None:
    try:
        call(**arguments)
    except Exception as error:
        if not absent(error):
            raise


# --- DynamoDB ---


class _Table(Provider):
    def settle(self, ctx: Context, name: str, old: Json, new: Json) -> None:
        """What is set after creation, and may change in place."""
        client = ctx.client("dynamodb")
        if new.get("TimeToLiveSpecification") != old.get("TimeToLiveSpecification"):
            spec = new.get("TimeToLiveSpecification") or {**old["TimeToLiveSpecification"], "Enabled": False}
            client.update_time_to_live(TableName=name, TimeToLiveSpecification=spec)
        if new.get("PointInTimeRecoverySpecification") != old.get("PointInTimeRecoverySpecification"):
            spec = new.get("PointInTimeRecoverySpecification") or {"PointInTimeRecoveryEnabled": False}
            client.update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=spec)

    def made(self, ctx: Context, description: Json) -> Made:
        table = description["Table"] if "Table" in description else description["TableDescription"]
        return Made(table["TableName"], {"Arn": table["TableArn"], "TableId": table.get("TableId", ""), "StreamArn": table.get("LatestStreamArn", "")})


@provides("AWS::DynamoDB::Table")
class Table(_Table):
    properties = {"TableName", "KeySchema", "AttributeDefinitions", "BillingMode", "ProvisionedThroughput", "PointInTimeRecoverySpecification",
                  "TimeToLiveSpecification", "DeletionProtectionEnabled", "StreamSpecification", "SSESpecification", "GlobalSecondaryIndexes",
                  "LocalSecondaryIndexes", "Tags", "TableClass"}  # fmt: skip
    replace_on = {"TableName", "KeySchema", "AttributeDefinitions", "LocalSecondaryIndexes"}
    attributes = {"Arn", "StreamArn"}

    def create(self, ctx: Context, props: Json) -> Made:
        arguments = pick(props, "KeySchema", "AttributeDefinitions", "BillingMode", "ProvisionedThroughput", "DeletionProtectionEnabled",
                         "GlobalSecondaryIndexes", "LocalSecondaryIndexes", "Tags")  # fmt: skip
        if "StreamSpecification" in props:
            arguments["StreamSpecification"] = {"StreamEnabled": True, **props["StreamSpecification"]}
        if props.get("SSESpecification"):
            arguments["SSESpecification"] = {"Enabled": props["SSESpecification"]["SSEEnabled"]}
        made = self.made(ctx, ctx.client("dynamodb").create_table(TableName=props.get("TableName") or ctx.name(255), **arguments))
        self.settle(ctx, made.physical, {}, props)
        return made

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        client = ctx.client("dynamodb")
        for key in ("GlobalSecondaryIndexes", "StreamSpecification", "SSESpecification", "TableClass"):
            if old.get(key) != new.get(key):
                raise NotImplementedError(f"a change of {key} of a table")
        changes = {k: new[k] for k in ("BillingMode", "ProvisionedThroughput") if k in new and new.get(k) != old.get(k)}
        if new.get("DeletionProtectionEnabled", False) != old.get("DeletionProtectionEnabled", False):
            changes["DeletionProtectionEnabled"] = new.get("DeletionProtectionEnabled", False)
        if changes:
            client.update_table(TableName=made.physical, **changes)
        self.settle(ctx, made.physical, old, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("dynamodb").delete_table, TableName=made.physical)


@provides("AWS::DynamoDB::GlobalTable")
class GlobalTable(_Table):
    """CDK's TableV2. One replica, in the stack's Region; more are refused."""

    properties = {"TableName", "KeySchema", "AttributeDefinitions", "BillingMode", "Replicas", "TimeToLiveSpecification", "StreamSpecification",
                  "SSESpecification", "WarmThroughput"}  # fmt: skip
    replace_on = {"TableName", "KeySchema", "AttributeDefinitions"}
    attributes = {"Arn", "StreamArn", "TableId"}

    def flat(self, ctx: Context, props: Json) -> Json:
        replicas = props.get("Replicas", [])
        if len(replicas) != 1 or replicas[0]["Region"] != ctx.region:
            raise NotImplementedError("a global table with replicas in other Regions")
        replica = dict(replicas[0])
        known = {"Region", "PointInTimeRecoverySpecification", "DeletionProtectionEnabled", "Tags", "ContributorInsightsSpecification", "TableClass"}
        if set(replica) - known:
            raise NotImplementedError(f"{sorted(set(replica) - known)} of a global table's replica")
        return {**props, **replica}

    def create(self, ctx: Context, props: Json) -> Made:
        props = self.flat(ctx, props)
        arguments = pick(props, "KeySchema", "AttributeDefinitions", "BillingMode", "DeletionProtectionEnabled", "Tags")
        arguments["StreamSpecification"] = {"StreamEnabled": "StreamSpecification" in props, **props.get("StreamSpecification", {})}
        made = self.made(ctx, ctx.client("dynamodb").create_table(TableName=props.get("TableName") or ctx.name(255), **arguments))
        self.settle(ctx, made.physical, {}, props)
        return made

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        old, new = self.flat(ctx, old), self.flat(ctx, new)
        if new.get("DeletionProtectionEnabled", False) != old.get("DeletionProtectionEnabled", False):
            ctx.client("dynamodb").update_table(TableName=made.physical, DeletionProtectionEnabled=new.get("DeletionProtectionEnabled", False))
        self.settle(ctx, made.physical, old, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("dynamodb").delete_table, TableName=made.physical)


# --- IAM ---


@provides("AWS::IAM::Role")
class Role(Provider):
    properties = {"RoleName", "AssumeRolePolicyDocument", "Policies", "ManagedPolicyArns", "Description", "MaxSessionDuration", "Path", "Tags",
                  "PermissionsBoundary"}  # fmt: skip
    replace_on = {"RoleName", "Path"}
    attributes = {"Arn", "RoleId"}

    def create(self, ctx: Context, props: Json) -> Made:
        iam = ctx.client("iam")
        name = props.get("RoleName") or ctx.name()
        arguments = pick(props, "Description", "MaxSessionDuration", "Path", "Tags", "PermissionsBoundary")
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=text(props["AssumeRolePolicyDocument"]), **arguments)["Role"]
        self.settle(ctx, name, {}, props)
        return Made(name, {"Arn": role["Arn"], "RoleId": role["RoleId"]})

    def settle(self, ctx: Context, name: str, old: Json, new: Json) -> None:
        iam = ctx.client("iam")
        was, now = {p["PolicyName"]: p for p in old.get("Policies", [])}, {p["PolicyName"]: p for p in new.get("Policies", [])}
        for gone_name in set(was) - set(now):
            gone(iam.delete_role_policy, RoleName=name, PolicyName=gone_name)
        for policy in now.values():
            iam.put_role_policy(RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=text(policy["PolicyDocument"]))
        for arn in set(old.get("ManagedPolicyArns", [])) - set(new.get("ManagedPolicyArns", [])):
            gone(iam.detach_role_policy, RoleName=name, PolicyArn=arn)
        for arn in set(new.get("ManagedPolicyArns", [])) - set(old.get("ManagedPolicyArns", [])):
            iam.attach_role_policy(RoleName=name, PolicyArn=arn)

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        iam = ctx.client("iam")
        if old["AssumeRolePolicyDocument"] != new["AssumeRolePolicyDocument"]:
            iam.update_assume_role_policy(RoleName=made.physical, PolicyDocument=text(new["AssumeRolePolicyDocument"]))
        if pick(old, "Description", "MaxSessionDuration") != pick(new, "Description", "MaxSessionDuration"):
            iam.update_role(RoleName=made.physical, **pick(new, "Description", "MaxSessionDuration"))
        self.settle(ctx, made.physical, old, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        iam = ctx.client("iam")
        self.settle(ctx, made.physical, props, {})
        gone(iam.delete_role, RoleName=made.physical)


@provides("AWS::IAM::Policy")
class Policy(Provider):
    properties = {"PolicyName", "PolicyDocument", "Roles"}
    replace_on = {"PolicyName"}

    def create(self, ctx: Context, props: Json) -> Made:
        for role in props.get("Roles", []):
            ctx.client("iam").put_role_policy(RoleName=role, PolicyName=props["PolicyName"], PolicyDocument=text(props["PolicyDocument"]))
        return Made(ctx.name())

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        for role in set(old.get("Roles", [])) - set(new.get("Roles", [])):
            gone(ctx.client("iam").delete_role_policy, RoleName=role, PolicyName=old["PolicyName"])
        self.create(ctx, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        for role in props.get("Roles", []):
            gone(ctx.client("iam").delete_role_policy, RoleName=role, PolicyName=props["PolicyName"])


@provides("AWS::IAM::ManagedPolicy")
class ManagedPolicy(Provider):
    properties = {"ManagedPolicyName", "PolicyDocument", "Roles", "Description", "Path"}
    replace_on = {"ManagedPolicyName", "Path", "Description"}
    attributes = {"PolicyArn"}

    def create(self, ctx: Context, props: Json) -> Made:
        iam = ctx.client("iam")
        policy = iam.create_policy(PolicyName=props.get("ManagedPolicyName") or ctx.name(128), PolicyDocument=text(props["PolicyDocument"]),
                                   **pick(props, "Description", "Path"))["Policy"]  # fmt: skip
        for role in props.get("Roles", []):
            iam.attach_role_policy(RoleName=role, PolicyArn=policy["Arn"])
        return Made(policy["Arn"], {"PolicyArn": policy["Arn"]})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        iam = ctx.client("iam")
        for version in iam.list_policy_versions(PolicyArn=made.physical)["Versions"]:
            if not version["IsDefaultVersion"]:
                iam.delete_policy_version(PolicyArn=made.physical, VersionId=version["VersionId"])
        iam.create_policy_version(PolicyArn=made.physical, PolicyDocument=text(new["PolicyDocument"]), SetAsDefault=True)
        for role in set(old.get("Roles", [])) - set(new.get("Roles", [])):
            gone(iam.detach_role_policy, RoleName=role, PolicyArn=made.physical)
        for role in set(new.get("Roles", [])) - set(old.get("Roles", [])):
            iam.attach_role_policy(RoleName=role, PolicyArn=made.physical)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        iam = ctx.client("iam")
        for role in props.get("Roles", []):
            gone(iam.detach_role_policy, RoleName=role, PolicyArn=made.physical)
        gone(iam.delete_policy, PolicyArn=made.physical)


@provides("AWS::IAM::InstanceProfile")
class InstanceProfile(Provider):
    properties = {"InstanceProfileName", "Roles", "Path"}
    replace_on = {"InstanceProfileName", "Path"}
    attributes = {"Arn"}

    def create(self, ctx: Context, props: Json) -> Made:
        iam = ctx.client("iam")
        name = props.get("InstanceProfileName") or ctx.name(128)
        profile = iam.create_instance_profile(InstanceProfileName=name, **pick(props, "Path"))["InstanceProfile"]
        for role in props["Roles"]:
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=role)
        return Made(name, {"Arn": profile["Arn"]})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        iam = ctx.client("iam")
        for role in old["Roles"]:
            gone(iam.remove_role_from_instance_profile, InstanceProfileName=made.physical, RoleName=role)
        for role in new["Roles"]:
            iam.add_role_to_instance_profile(InstanceProfileName=made.physical, RoleName=role)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        iam = ctx.client("iam")
        for role in props["Roles"]:
            gone(iam.remove_role_from_instance_profile, InstanceProfileName=made.physical, RoleName=role)
        gone(iam.delete_instance_profile, InstanceProfileName=made.physical)
