"""Stacks and change sets: validate, create in order, roll back on failure.

    change set: CREATE_COMPLETE | FAILED (bad template, unknown type or property, nothing to change)
    stack:  REVIEW_IN_PROGRESS -> CREATE_IN_PROGRESS -> CREATE_COMPLETE -> UPDATE_IN_PROGRESS -> UPDATE_COMPLETE -> DELETE_IN_PROGRESS -> DELETE_COMPLETE
                                        |                                       |
                                        v on failure                            v on failure
                               ROLLBACK_IN_PROGRESS -> ROLLBACK_COMPLETE   UPDATE_ROLLBACK_IN_PROGRESS -> UPDATE_ROLLBACK_COMPLETE
"""

from __future__ import annotations

import datetime
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import ACCOUNT
from . import providers, providers_compute, providers_storage  # noqa: F401 (registration)
from .providers import Context, Json, Made, Replacement
from .template import Resolver, TemplateError, order, parse, references

ANSWER_WITHIN_S = 8.0  # a call that starts work waits this long for its end, so that deployers need not poll
LIVE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")


class CloudFormationError(Exception):
    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


def validation(message: str) -> CloudFormationError:
    return CloudFormationError("ValidationError", message)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass
class Resource:
    logical: str
    kind: str
    props: Json
    raw: Json
    made: Made
    status: str = "CREATE_COMPLETE"
    changed: datetime.datetime = field(default_factory=now)

    def kept(self, policy: str = "DeletionPolicy") -> bool:
        return self.raw.get(policy) in ("Retain", "RetainExceptOnCreate")


@dataclass
class Plan:
    """A template ready to be executed."""

    text: str
    template: Json
    parameters: Json  # resolved
    given: Json  # as given
    tags: list[Json]
    role: str | None


@dataclass
class ChangeSet:
    id: str
    name: str
    kind: str
    created: datetime.datetime
    status: str = "CREATE_COMPLETE"
    reason: str = ""
    execution: str = "AVAILABLE"
    plan: Plan | None = None
    changes: list[Json] = field(default_factory=list)
    description: str | None = None


@dataclass
class Stack:
    id: str
    name: str
    region: str
    created: datetime.datetime
    status: str = "REVIEW_IN_PROGRESS"
    reason: str = ""
    plan: Plan | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    sequence: list[str] = field(default_factory=list)  # order of creation
    outputs: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    change_sets: dict[str, ChangeSet] = field(default_factory=dict)
    updated: datetime.datetime | None = None
    deleted: datetime.datetime | None = None
    protected: bool = False
    lock: Any = field(default_factory=threading.RLock)

    def event(self, logical: str, physical: str, kind: str, status: str, reason: str = "") -> None:
        self.events.append({"EventId": str(uuid.uuid4()), "StackId": self.id, "StackName": self.name, "LogicalResourceId": logical,
                            "PhysicalResourceId": physical, "ResourceType": kind, "Timestamp": now(), "ResourceStatus": status,
                            "ResourceStatusReason": reason or None})  # fmt: skip

    def to(self, status: str, reason: str = "") -> None:
        self.status, self.reason = status, reason
        self.event(self.name, self.id, "AWS::CloudFormation::Stack", status, reason)


class Engine:
    def __init__(self, *, clients: Callable[[str, str | None], Callable[[str], Any]], ssm: Callable[[str, str], str], log: Callable[..., None]):
        self.clients, self.ssm, self.log = clients, ssm, log
        self.stacks: dict[str, Stack] = {}
        self.lock = threading.Lock()

    # --- finding ---

    def find(self, region: str, name: str | None, *, deleted: bool = False) -> Stack:
        for stack in self.stacks.values():
            if stack.region == region and (stack.id == name or (stack.name == name and stack.status != "DELETE_COMPLETE")):
                return stack
        if deleted:
            for stack in reversed(list(self.stacks.values())):
                if stack.region == region and stack.name == name:
                    return stack
        raise validation(f"Stack with id {name} does not exist")

    def find_change_set(self, region: str, name: str, stack_name: str | None) -> tuple[Stack, ChangeSet]:
        for stack in self.stacks.values():
            for change in stack.change_sets.values():
                if change.id == name or (change.name == name and stack.region == region and stack_name in (stack.name, stack.id)
                                         and stack.status != "DELETE_COMPLETE"):  # fmt: skip
                    return stack, change
        raise CloudFormationError("ChangeSetNotFound", f"ChangeSet [{name}] does not exist")

    def exports(self, region: str) -> dict[str, tuple[str, Any]]:
        return {o["ExportName"]: (s.id, o["OutputValue"]) for s in self.stacks.values() if s.region == region and s.status != "DELETE_COMPLETE"
                for o in s.outputs if o.get("ExportName")}  # fmt: skip

    # --- planning ---

    def plan(self, stack: Stack, text: str, given: Json, tags: list[Json], role: str | None) -> Plan:
        """Everything that can be found wrong before anything is made."""
        template = parse(text)
        parameters = self.parameters(stack.region, template, given)
        plan = Plan(text, template, parameters, given, tags, role)
        resolver = self.resolver(stack, plan, ref=lambda name: f"<{name}>", attribute=lambda name, attr: f"<{name}.{attr}>")
        active = resolver.active()
        unknown = sorted({r["Type"] for r in active.values() if providers.find(r["Type"]) is None})
        if unknown:
            raise TemplateError(f"Template format error: Unrecognized resource types: {unknown} (to the local cloud; see tests/localcloud/cloudformation)")
        problems = []
        for name, resource in active.items():
            provider = providers.find(resource["Type"])
            assert provider is not None
            resolved = resolver.resolve(resource.get("Properties") or {})
            if provider.properties is not None:
                extra = sorted(set(resolved) - provider.properties)
                if extra:
                    problems.append(f"{name} ({resource['Type']}): the local cloud does not honour the propert{'y' if len(extra) == 1 else 'ies'} {', '.join(extra)}")
        for name, attribute in attributes_asked(template, active, resolver.condition):
            target = active.get(name)
            if target is None:
                problems.append(f"Template error: instance of Fn::GetAtt references undefined resource {name}")
                continue
            provider = providers.find(target["Type"])
            if provider is not None and provider.properties is not None and attribute not in provider.attributes:
                problems.append(f"{name} ({target['Type']}): the local cloud does not know the attribute {attribute}")
        if problems:
            raise TemplateError("; ".join(problems))
        self.check_rules(template, resolver)
        order(template, active)
        return plan

    def parameters(self, region: str, template: Json, given: Json) -> Json:
        known = template.get("Parameters") or {}
        surplus = set(given) - set(known)
        if surplus:
            raise TemplateError(f"Parameters: [{', '.join(sorted(surplus))}] do not exist in the template")
        out: Json = {}
        missing = []
        for name, spec in known.items():
            value = given.get(name, spec.get("Default"))
            if value is None:
                missing.append(name)
                continue
            kind = spec.get("Type", "String")
            if "AllowedValues" in spec and str(value) not in [str(v) for v in spec["AllowedValues"]]:
                raise TemplateError(f"Parameter '{name}' must be one of AllowedValues")
            if kind.startswith("AWS::SSM::Parameter::Value"):
                value = self.ssm(region, value)
            if kind == "CommaDelimitedList" or "List<" in kind:
                value = [v.strip() for v in str(value).split(",")] if value != "" else []
            elif kind == "Number":
                value = float(value) if "." in str(value) else int(value)
            out[name] = value if isinstance(value, (list, int, float)) else str(value)
        if missing:
            raise TemplateError(f"Parameters: [{', '.join(missing)}] must have values")
        return out

    def check_rules(self, template: Json, resolver: Resolver) -> None:
        for name, rule in (template.get("Rules") or {}).items():
            if "RuleCondition" in rule and not resolver.resolve(rule["RuleCondition"]):
                continue
            for assertion in rule["Assertions"]:
                if not resolver.resolve(assertion["Assert"]):
                    raise TemplateError(f"Template validation error: rule {name}: {assertion.get('AssertDescription', 'assertion failed')}")

    def resolver(self, stack: Stack, plan: Plan, *, ref: Callable[[str], Any], attribute: Callable[[str, str], Any]) -> Resolver:
        pseudo = {"AWS::AccountId": ACCOUNT, "AWS::Region": stack.region, "AWS::StackId": stack.id, "AWS::StackName": stack.name,
                  "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com", "AWS::NotificationARNs": []}  # fmt: skip

        def imported(name: str) -> Any:
            found = self.exports(stack.region).get(name)
            if found is None:
                raise TemplateError(f"No export named {name} found.")
            return found[1]

        return Resolver(plan.template, plan.parameters, pseudo, ref=ref, attribute=attribute, imports=imported)

    def changes(self, stack: Stack, plan: Plan) -> list[Json]:
        resolver = self.resolver(stack, plan, ref=lambda n: n, attribute=lambda n, a: f"{n}.{a}")
        active = resolver.active()
        same_parameters = stack.plan is not None and stack.plan.parameters == plan.parameters
        out = []
        for name, resource in active.items():
            old = stack.resources.get(name)
            if old is None:
                out.append(change("Add", name, resource["Type"], None))
            elif old.raw != resource or (not same_parameters and references_parameters(resource, plan.template)):
                out.append(change("Modify", name, resource["Type"], old.made.physical))
        out += [change("Remove", name, r.kind, r.made.physical) for name, r in stack.resources.items() if name not in active]
        return out

    # --- verbs ---

    def create_change_set(self, region: str, stack_name: str, name: str, kind: str, text: str | None, given: Json, tags: list[Json], role: str | None,
                          description: str | None) -> tuple[Stack, ChangeSet]:  # fmt: skip
        with self.lock:
            try:
                stack = self.find(region, stack_name)
            except CloudFormationError:
                if kind != "CREATE":
                    raise
                stack = self.new_stack(region, stack_name)
        if kind == "CREATE" and stack.status != "REVIEW_IN_PROGRESS":
            raise validation(f"Stack [{stack.name}] already exists and cannot be created again with the changeSet [{name}].")
        if kind == "UPDATE" and stack.status not in LIVE:
            raise validation(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
        if name in {c.name for c in stack.change_sets.values()}:
            raise CloudFormationError("AlreadyExistsException", f"ChangeSet {name} already exists")
        found = ChangeSet(f"arn:aws:cloudformation:{region}:{ACCOUNT}:changeSet/{name}/{uuid.uuid4()}", name, kind, now(), description=description)
        stack.change_sets[found.id] = found
        try:
            found.plan = self.plan(stack, text if text is not None else stack.plan.text, given, tags, role)  # type: ignore[union-attr]
            found.changes = self.changes(stack, found.plan)
            if stack.plan is not None and not found.changes and same_outputs(stack.plan, found.plan) and stack.plan.tags == tags:
                raise TemplateError("The submitted information didn't contain changes. Submit different information to create a change set.")
        except TemplateError as bad:
            found.status, found.reason, found.execution = "FAILED", str(bad), "UNAVAILABLE"
        return stack, found

    def new_stack(self, region: str, name: str) -> Stack:
        stack = Stack(f"arn:aws:cloudformation:{region}:{ACCOUNT}:stack/{name}/{uuid.uuid4()}", name, region, now())
        stack.event(name, stack.id, "AWS::CloudFormation::Stack", "REVIEW_IN_PROGRESS", "User Initiated")
        self.stacks[stack.id] = stack
        return stack

    def execute_change_set(self, stack: Stack, found: ChangeSet) -> None:
        if found.status != "CREATE_COMPLETE" or found.execution != "AVAILABLE" or found.plan is None:
            raise CloudFormationError("InvalidChangeSetStatus", f"ChangeSet [{found.id}] cannot be executed in its current status of [{found.status}]")
        found.execution = "EXECUTE_COMPLETE"
        plan = found.plan
        stack.change_sets.clear()
        self.start(stack, plan)

    def start(self, stack: Stack, plan: Plan) -> None:
        """Creates or updates in a thread of its own, and waits a little for its end."""
        creating = stack.plan is None
        stack.to("CREATE_IN_PROGRESS" if creating else "UPDATE_IN_PROGRESS", "User Initiated")
        if not creating:
            stack.updated = now()
        self.background(lambda: self.converge(stack, plan, creating), stack)

    def background(self, work: Callable[[], None], stack: Stack) -> None:
        def guarded() -> None:
            try:
                with stack.lock:
                    work()
            except Exception as error:  # never leave a stack in progress for ever
                self.log("cloudformation broke", stack=stack.name, error=repr(error))
                stack.to(stack.status.split("_", 1)[0] + "_FAILED" if not stack.status.startswith("UPDATE") else "UPDATE_ROLLBACK_FAILED", repr(error))

        thread = threading.Thread(target=guarded, name=f"cfn-{stack.name}", daemon=True)
        thread.start()
        thread.join(ANSWER_WITHIN_S)

    def delete_stack(self, stack: Stack, role: str | None) -> None:
        if stack.protected:
            raise validation(f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled")
        if stack.status == "DELETE_COMPLETE":
            return
        users = [s.name for s in self.stacks.values() if s.region == stack.region and s.id != stack.id and s.status != "DELETE_COMPLETE"
                 and s.plan is not None and any(o.get("ExportName") and o["ExportName"] in s.plan.text and "Fn::ImportValue" in s.plan.text
                                                for o in stack.outputs)]  # fmt: skip
        if users:
            raise validation(f"Export of {stack.name} cannot be deleted as it is in use by {', '.join(users)}")
        stack.to("DELETE_IN_PROGRESS", "User Initiated")
        role = role or (stack.plan.role if stack.plan else None)

        def work() -> None:
            problems = []
            for name in reversed(stack.sequence):
                resource = stack.resources.get(name)
                if resource is None:
                    continue
                problem = self.remove(stack, resource, role)
                if problem:
                    problems.append(name)
                else:
                    del stack.resources[name]
            if problems:
                stack.to("DELETE_FAILED", f"The following resource(s) failed to delete: [{', '.join(problems)}]. ")
            else:
                stack.deleted = now()
                stack.to("DELETE_COMPLETE")

        self.background(work, stack)

    # --- the work ---

    def context(self, stack: Stack, logical: str, kind: str, role: str | None) -> Context:
        return Context(self.clients(stack.region, role), stack.region, ACCOUNT, stack.name, logical, kind)

    def remove(self, stack: Stack, resource: Resource, role: str | None, policy: str = "DeletionPolicy") -> str | None:
        """Deletes one resource. Returns the problem, or None."""
        if resource.kept(policy):
            stack.event(resource.logical, resource.made.physical, resource.kind, "DELETE_SKIPPED")
            return None
        stack.event(resource.logical, resource.made.physical, resource.kind, "DELETE_IN_PROGRESS")
        provider = providers.find(resource.kind)
        assert provider is not None
        try:
            provider.delete(self.context(stack, resource.logical, resource.kind, role), resource.made, resource.props)
        except Exception as error:
            stack.event(resource.logical, resource.made.physical, resource.kind, "DELETE_FAILED", reason_of(error))
            return reason_of(error)
        stack.event(resource.logical, resource.made.physical, resource.kind, "DELETE_COMPLETE")
        return None

    def converge(self, stack: Stack, plan: Plan, creating: bool) -> None:
        before = dict(stack.resources)
        working: dict[str, Resource] = {}
        journal: list[tuple[str, Resource, Resource | None]] = []  # (created|updated|replaced, new, old)

        def ref(name: str) -> Any:
            found = working.get(name)
            if found is None:
                raise TemplateError(f"Template error: {name} is referred to, but not created in this stack")
            return found.made.ref or found.made.physical

        def attribute(name: str, attr: str) -> Any:
            found = working[name]
            if attr not in found.made.attributes:
                raise TemplateError(f"CustomResource attribute error: Vendor response doesn't contain {attr} attribute in object {name}"
                                    if found.kind.startswith("Custom::") else f"{found.kind} has no attribute {attr}")  # fmt: skip
            return found.made.attributes[attr]

        resolver = self.resolver(stack, plan, ref=ref, attribute=attribute)
        active = resolver.active()
        sequence = order(plan.template, active)
        failed: tuple[str, str] | None = None
        for name in sequence:
            raw = active[name]
            try:
                self.settle(stack, plan, name, raw, resolver, before.get(name), working, journal)
            except Exception as error:
                failed = (name, reason_of(error))
                break
        if failed is None:
            try:
                outputs = self.outputs(stack, plan, resolver)
            except Exception as error:
                failed = ("Outputs", reason_of(error))
        if failed is not None:
            self.roll_back(stack, plan, creating, failed, before, journal)
            return
        stack.resources, stack.outputs, old_sequence = working, outputs, stack.sequence
        stack.sequence = sequence
        if not creating:
            stack.to("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
            for name in reversed(old_sequence):
                if name in before and name not in working:
                    self.remove(stack, before[name], plan.role)
            for action, _, old in reversed(journal):
                if action == "replaced" and old is not None:
                    self.remove(stack, old, plan.role, "UpdateReplacePolicy")
        stack.plan = plan
        stack.to("CREATE_COMPLETE" if creating else "UPDATE_COMPLETE")

    def settle(self, stack: Stack, plan: Plan, name: str, raw: Json, resolver: Resolver, old: Resource | None, working: dict[str, Resource],
               journal: list[tuple[str, Resource, Resource | None]]) -> None:  # fmt: skip
        """Makes one resource what the template says. Appends to the journal only what was done."""
        provider = providers.find(raw["Type"])
        assert provider is not None
        kind = raw["Type"]
        verb = "CREATE" if old is None else "UPDATE"
        physical = old.made.physical if old is not None else ""
        made: Made | None = None
        replaced = False
        props: Json = {}
        try:
            props = resolver.resolve(raw.get("Properties") or {})
            if old is not None and old.kind == kind and old.props == props:
                working[name] = Resource(name, kind, props, raw, old.made, old.status, old.changed)
                return
            stack.event(name, physical, kind, f"{verb}_IN_PROGRESS")
            ctx = self.context(stack, name, kind, plan.role)
            if old is not None and old.kind == kind and not any(old.props.get(k) != props.get(k) for k in provider.replace_on):
                try:
                    made = provider.update(ctx, old.made, old.props, props)
                    replaced = made.physical != old.made.physical  # a custom resource that answered with a new id
                except Replacement:
                    made = None
            if made is None:
                if old is not None:
                    stack.event(name, physical, kind, "UPDATE_IN_PROGRESS", "Requested update requires the creation of a new physical resource; hence creating one.")
                    replaced = True
                made = provider.create(ctx, props)
            done = Resource(name, kind, props, raw, made, f"{verb}_COMPLETE")
            working[name] = done
            journal.append(("created" if old is None else "replaced" if replaced else "updated", done, old))
            stack.event(name, made.physical, kind, f"{verb}_COMPLETE")
        except Exception as error:
            stack.event(name, physical, kind, f"{verb}_FAILED", reason_of(error))
            if old is not None and made is None and not replaced and old.kind == kind:
                # A half-done update: the old properties are asked for again while rolling back, as AWS does.
                journal.append(("updated", Resource(name, kind, props, raw, old.made), old))
            raise

    def outputs(self, stack: Stack, plan: Plan, resolver: Resolver) -> list[Json]:
        out = []
        for name, spec in (plan.template.get("Outputs") or {}).items():
            if "Condition" in spec and not resolver.condition(spec["Condition"]):
                continue
            export = resolver.resolve(spec["Export"]["Name"]) if "Export" in spec else None
            owner = self.exports(stack.region).get(export, (stack.id, None))[0] if export else stack.id
            if owner != stack.id:
                raise TemplateError(f"Export with name {export} is already exported by stack {owner}. ")
            out.append({"OutputKey": name, "OutputValue": str(resolver.resolve(spec["Value"])), "Description": spec.get("Description"), "ExportName": export})
        return out

    def roll_back(self, stack: Stack, plan: Plan, creating: bool, failed: tuple[str, str], before: dict[str, Resource],
                  journal: list[tuple[str, Resource, Resource | None]]) -> None:  # fmt: skip
        reason = f"The following resource(s) failed to {'create' if creating else 'update'}: [{failed[0]}]. "
        stack.to("ROLLBACK_IN_PROGRESS" if creating else "UPDATE_ROLLBACK_IN_PROGRESS", reason + ("Rollback requested by user." if creating else ""))
        stuck = []
        for action, new, old in reversed(journal):
            if action in ("created", "replaced"):
                # What this very attempt made is removed, whatever its deletion policy says ("RetainExceptOnCreate" semantics aside).
                if self.remove(stack, new, plan.role) and action == "created":
                    stuck.append(new.logical)
            elif old is not None:
                provider = providers.find(new.kind)
                assert provider is not None
                try:
                    provider.update(self.context(stack, new.logical, new.kind, plan.role), new.made, new.props, old.props)
                    stack.event(new.logical, old.made.physical, new.kind, "UPDATE_COMPLETE")
                except Exception as error:
                    stuck.append(new.logical)
                    stack.event(new.logical, old.made.physical, new.kind, "UPDATE_FAILED", reason_of(error))
        stack.resources = {} if creating else before
        if creating:
            stack.plan = plan
            stack.to("ROLLBACK_FAILED" if stuck else "ROLLBACK_COMPLETE", f"stuck: {stuck}" if stuck else "")
        else:
            stack.to("UPDATE_ROLLBACK_FAILED" if stuck else "UPDATE_ROLLBACK_COMPLETE", f"stuck: {stuck}" if stuck else "")


def reason_of(error: Exception) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return f"{response['Error'].get('Message', '')} (Error Code: {response['Error'].get('Code', '')})"
    if isinstance(error, NotImplementedError):
        return f"the local cloud does not implement {error}"
    if isinstance(error, KeyError):
        return f"Properties validation failed: required key [{error.args[0]}] not found"
    return str(error) or repr(error)


def change(action: str, logical: str, kind: str, physical: str | None) -> Json:
    return {"Type": "Resource", "ResourceChange": {"Action": action, "LogicalResourceId": logical, "PhysicalResourceId": physical, "ResourceType": kind,
            "Replacement": "Conditional" if action == "Modify" else None, "Scope": [], "Details": []}}  # fmt: skip


def same_outputs(old: Plan, new: Plan) -> bool:
    return (old.template.get("Outputs") or {}) == (new.template.get("Outputs") or {})


def references_parameters(resource: Json, template: Json) -> bool:
    fake = {"Resources": dict.fromkeys(template.get("Parameters") or {}, {})}
    return bool(references(resource, fake))


def attributes_asked(template: Json, active: dict[str, Json], condition: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Every Fn::GetAtt that will be evaluated: (logical id, attribute)."""
    from .template import SUB

    found: list[tuple[str, str]] = []

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            for key, inner in node.items():
                if key == "Fn::GetAtt":
                    parts = inner.split(".", 1) if isinstance(inner, str) else inner
                    if isinstance(parts[1], str):
                        found.append((parts[0], parts[1]))
                elif key == "Fn::Sub":
                    text, extra = (inner, {}) if isinstance(inner, str) else (inner[0], inner[1])
                    found.extend(tuple(n.split(".", 1)) for literal, n in SUB.findall(text) if not literal and "." in n and n not in extra)  # type: ignore[misc]
                if key == "Fn::If":
                    walk(inner[1] if condition(inner[0]) else inner[2])
                else:
                    walk(inner)

    for resource in active.values():
        walk(resource.get("Properties") or {})
    return found
