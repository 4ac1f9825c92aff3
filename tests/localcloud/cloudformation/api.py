"""The CloudFormation API in front of the engine; parsing and serializing by moto's base class."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import unquote, urlparse

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from moto.s3.models import s3_backends

from .. import ACCOUNT
from .engine import CloudFormationError, Engine, Stack, validation
from .template import TemplateError, parse

Json = dict[str, Any]


class _Error(ServiceException):
    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def template_from_url(url: str) -> str:
    """Virtual-hosted (bucket.s3...) and path-style URLs, as CDK and people write them."""
    found = urlparse(url)
    host, path = found.hostname or "", unquote(found.path).lstrip("/")
    if ".s3." in host or ".s3-" in host:
        bucket, key = host.split(".s3", 1)[0], path
    else:
        bucket, _, key = path.partition("/")
    try:
        stored = s3_backends[ACCOUNT]["aws"].get_object(bucket, key)
    except Exception as error:
        raise validation(f"S3 error: {error} (bucket {bucket}, key {key})") from None
    if stored is None:
        raise validation(f"S3 error: The specified key does not exist. (bucket {bucket}, key {key})")
    return stored.value.decode()


class CloudFormationApi(BaseResponse):
    engine: Engine  # set once, at start

    def __init__(self) -> None:
        super().__init__(service_name="cloudformation")
        self.automated_parameter_parsing = True

    def call_action(self) -> Any:
        return super().call_action()

    def template(self) -> str | None:
        url = self._get_param("TemplateURL")
        return template_from_url(url) if url else self._get_param("TemplateBody")

    def given(self, stack: Stack | None) -> Json:
        out = {}
        for p in self._get_param("Parameters", []):
            if p.get("UsePreviousValue"):
                if stack is None or stack.plan is None:
                    raise validation(f"Invalid input for parameter key {p['ParameterKey']}. Cannot specify usePreviousValue as true for a parameter key not in the previous template")
                if p["ParameterKey"] in stack.plan.given:
                    out[p["ParameterKey"]] = stack.plan.given[p["ParameterKey"]]
            else:
                out[p["ParameterKey"]] = p["ParameterValue"]
        return out

    def tags(self) -> list[Json]:
        return [{"Key": t["Key"], "Value": t["Value"]} for t in self._get_param("Tags", [])]

    def stack(self, *, deleted: bool = False) -> Stack:
        return self.engine.find(self.region, self._get_param("StackName"), deleted=deleted)

    def existing(self) -> Stack | None:
        try:
            return self.stack()
        except CloudFormationError:
            return None

    # --- change sets ---

    def create_change_set(self) -> ActionResult:
        stack = self.existing()
        text = self.template()
        if text is None and not self._get_param("UsePreviousTemplate"):
            raise validation("Either Template URL or Template Body must be specified.")
        if self._get_param("ResourcesToImport") or self._get_param("ChangeSetType") == "IMPORT":
            raise validation("the local cloud cannot import resources")
        made, change = self.engine.create_change_set(self.region, self._get_param("StackName"), self._get_param("ChangeSetName"),
                                                     self._get_param("ChangeSetType", "UPDATE"), text, self.given(stack), self.tags(),
                                                     self._get_param("RoleARN"), self._get_param("Description"))  # fmt: skip
        return ActionResult({"Id": change.id, "StackId": made.id})

    def _change_set(self) -> tuple[Stack, Any]:
        return self.engine.find_change_set(self.region, self._get_param("ChangeSetName"), self._get_param("StackName"))

    def describe_change_set(self) -> ActionResult:
        stack, change = self._change_set()
        return ActionResult({"ChangeSetName": change.name, "ChangeSetId": change.id, "StackId": stack.id, "StackName": stack.name, "CreationTime": change.created,
                             "ExecutionStatus": change.execution, "Status": change.status, "StatusReason": change.reason or None, "Changes": change.changes,
                             "Description": change.description, "Tags": change.plan.tags if change.plan else [],
                             "Parameters": parameters(change.plan), "Capabilities": []})  # fmt: skip

    def execute_change_set(self) -> EmptyResult:
        self.engine.execute_change_set(*self._change_set())
        return EmptyResult()

    def delete_change_set(self) -> EmptyResult:
        try:
            stack, change = self._change_set()
        except CloudFormationError:
            return EmptyResult()  # deleting one that is not there succeeds
        stack.change_sets.pop(change.id, None)
        return EmptyResult()

    def list_change_sets(self) -> ActionResult:
        stack = self.stack()
        return ActionResult({"Summaries": [{"ChangeSetId": c.id, "ChangeSetName": c.name, "StackId": stack.id, "StackName": stack.name, "Status": c.status,
                                            "ExecutionStatus": c.execution, "CreationTime": c.created} for c in stack.change_sets.values()]})  # fmt: skip

    # --- stacks ---

    def create_stack(self) -> ActionResult:
        text, name = self.template(), self._get_param("StackName")
        if text is None:
            raise validation("Either Template URL or Template Body must be specified.")
        if self.existing() is not None:
            raise CloudFormationError("AlreadyExistsException", f"Stack [{name}] already exists")
        stack = self.engine.new_stack(self.region, name)
        try:
            plan = self.engine.plan(stack, text, self.given(None), self.tags(), self._get_param("RoleARN"))
        except TemplateError as bad:
            del self.engine.stacks[stack.id]
            raise validation(str(bad)) from None
        stack.protected = bool(self._get_param("EnableTerminationProtection"))
        self.engine.start(stack, plan)
        return ActionResult({"StackId": stack.id})

    def update_stack(self) -> ActionResult:
        stack = self.stack()
        text = self.template() or (stack.plan.text if stack.plan else None)
        if text is None or stack.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"):
            raise validation(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
        try:
            plan = self.engine.plan(stack, text, self.given(stack), self.tags() or stack.plan.tags, self._get_param("RoleARN") or stack.plan.role)  # type: ignore[union-attr]
        except TemplateError as bad:
            raise validation(str(bad)) from None
        if not self.engine.changes(stack, plan) and plan.template.get("Outputs") == stack.plan.template.get("Outputs"):  # type: ignore[union-attr]
            raise validation("No updates are to be performed.")
        self.engine.start(stack, plan)
        return ActionResult({"StackId": stack.id})

    def delete_stack(self) -> EmptyResult:
        stack = self.existing()
        if stack is not None:
            if self._get_param("RetainResources"):
                raise validation("the local cloud does not know RetainResources")
            self.engine.delete_stack(stack, self._get_param("RoleARN"))
        return EmptyResult()

    def describe_stacks(self) -> ActionResult:
        if self._get_param("StackName"):
            found = [self.stack()]
        else:
            found = [s for s in self.engine.stacks.values() if s.region == self.region and s.status != "DELETE_COMPLETE"]
        return ActionResult({"Stacks": [described(s) for s in found]})

    def list_stacks(self) -> ActionResult:
        wanted = self._get_param("StackStatusFilter", [])
        return ActionResult({"StackSummaries": [{"StackId": s.id, "StackName": s.name, "CreationTime": s.created, "DeletionTime": s.deleted,
                                                 "StackStatus": s.status} for s in self.engine.stacks.values()
                                                if s.region == self.region and (not wanted or s.status in wanted)]})  # fmt: skip

    def describe_stack_events(self) -> ActionResult:
        return ActionResult({"StackEvents": self.stack(deleted=True).events[::-1]})

    def describe_events(self) -> ActionResult:
        return ActionResult({"OperationEvents": []})  # the newer form of stack events; deployers fall back on the older

    def list_hook_results(self) -> ActionResult:
        return ActionResult({"HookResults": []})

    def get_template(self) -> ActionResult:
        if self._get_param("ChangeSetName"):
            change = self._change_set()[1]
            return ActionResult({"TemplateBody": change.plan.text if change.plan else "", "StagesAvailable": ["Original", "Processed"]})
        stack = self.stack()
        return ActionResult({"TemplateBody": stack.plan.text if stack.plan else "{}", "StagesAvailable": ["Original", "Processed"]})

    def get_template_summary(self) -> ActionResult:
        text = self.template()
        if text is None:
            stack = self.stack()
            text = stack.plan.text if stack.plan else None
        if text is None:
            raise validation("no template")
        template = parse(text)
        return ActionResult({"Parameters": [{"ParameterKey": k, "ParameterType": v.get("Type", "String"), "DefaultValue": v.get("Default"),
                                             "NoEcho": bool(v.get("NoEcho")), "Description": v.get("Description")}
                                            for k, v in (template.get("Parameters") or {}).items()],
                             "ResourceTypes": sorted({r["Type"] for r in template["Resources"].values()}), "Description": template.get("Description"),
                             "Capabilities": [], "Version": template.get("AWSTemplateFormatVersion")})  # fmt: skip

    def validate_template(self) -> ActionResult:
        try:
            template = parse(self.template() or "")
        except TemplateError as bad:
            raise validation(str(bad)) from None
        return ActionResult({"Parameters": [{"ParameterKey": k} for k in template.get("Parameters") or {}], "Description": template.get("Description")})

    def list_stack_resources(self) -> ActionResult:
        return ActionResult({"StackResourceSummaries": [{"LogicalResourceId": r.logical, "PhysicalResourceId": r.made.physical, "ResourceType": r.kind,
                                                         "LastUpdatedTimestamp": r.changed, "ResourceStatus": r.status}
                                                        for r in self.stack().resources.values()]})  # fmt: skip

    def _resource(self, stack: Stack, r: Any, when: str) -> Json:
        return {"StackName": stack.name, "StackId": stack.id, "LogicalResourceId": r.logical, "PhysicalResourceId": r.made.physical,
                "ResourceType": r.kind, when: r.changed, "ResourceStatus": r.status}  # fmt: skip

    def describe_stack_resources(self) -> ActionResult:
        stack, one = self.stack(), self._get_param("LogicalResourceId")
        return ActionResult({"StackResources": [self._resource(stack, r, "Timestamp") for r in stack.resources.values() if one in (None, r.logical)]})

    def describe_stack_resource(self) -> ActionResult:
        stack, one = self.stack(), self._get_param("LogicalResourceId")
        if one not in stack.resources:
            raise validation(f"Resource {one} does not exist for stack {stack.name}")
        return ActionResult({"StackResourceDetail": self._resource(stack, stack.resources[one], "LastUpdatedTimestamp")})

    def list_exports(self) -> ActionResult:
        return ActionResult({"Exports": [{"ExportingStackId": s, "Name": n, "Value": v} for n, (s, v) in self.engine.exports(self.region).items()]})

    def list_imports(self) -> ActionResult:
        return ActionResult({"Imports": []})

    def update_termination_protection(self) -> ActionResult:
        stack = self.stack()
        stack.protected = bool(self._get_param("EnableTerminationProtection"))
        return ActionResult({"StackId": stack.id})


def parameters(plan: Any) -> list[Json]:
    if plan is None:
        return []
    return [{"ParameterKey": k, "ParameterValue": ",".join(v) if isinstance(v, list) else str(v)} for k, v in plan.parameters.items()]


def described(stack: Stack) -> Json:
    drift: Json = {"StackDriftStatus": "NOT_CHECKED"}
    updated: datetime.datetime | None = stack.updated
    return {"StackId": stack.id, "StackName": stack.name, "Description": stack.plan.template.get("Description") if stack.plan else None,
            "Parameters": parameters(stack.plan), "CreationTime": stack.created, "LastUpdatedTime": updated, "DeletionTime": stack.deleted,
            "RollbackConfiguration": {}, "StackStatus": stack.status, "StackStatusReason": stack.reason or None, "DisableRollback": False,
            "NotificationARNs": [], "Capabilities": [], "Outputs": stack.outputs, "RoleARN": stack.plan.role if stack.plan else None,
            "Tags": stack.plan.tags if stack.plan else [], "EnableTerminationProtection": stack.protected, "DriftInformation": drift}  # fmt: skip


def wrapped(method: Any) -> Any:
    def run(self: CloudFormationApi) -> Any:
        try:
            return method(self)
        except CloudFormationError as error:
            raise _Error(error.code, error.message) from None
        except TemplateError as error:
            raise _Error("ValidationError", str(error)) from None

    run.__name__ = method.__name__
    return run


for _name in [n for n, m in vars(CloudFormationApi).items() if callable(m) and not n.startswith("_") and n not in
              ("call_action", "template", "given", "tags", "stack", "existing")]:  # fmt: skip
    setattr(CloudFormationApi, _name, wrapped(getattr(CloudFormationApi, _name)))
