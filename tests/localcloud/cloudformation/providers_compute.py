"""Lambda, EventBridge, Scheduler and Logs resources."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from typing import Any

from .providers import Context, Json, Made, Provider, gone, pick, provides, tag_list


@provides("AWS::Lambda::Function")
class Function(Provider):
    properties = {"FunctionName", "Code", "Role", "Runtime", "Handler", "Environment", "MemorySize", "Timeout", "Architectures", "Description",
                  "ReservedConcurrentExecutions", "LoggingConfig", "Tags", "TracingConfig", "EphemeralStorage"}  # fmt: skip
    replace_on = {"FunctionName"}
    attributes = {"Arn"}

    def code(self, props: Json) -> Json:
        code = props["Code"]
        if "ZipFile" in code:  # inline source of a managed runtime
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as archive:
                archive.writestr("index.py", code["ZipFile"])
            return {"ZipFile": out.getvalue()}
        return pick(code, "S3Bucket", "S3Key")

    def configuration(self, props: Json) -> Json:
        if not str(props.get("Runtime", "")).startswith("provided."):
            raise NotImplementedError(f"the Lambda runtime {props.get('Runtime')!r} (only provided.al2 and provided.al2023 run here)")
        return pick(props, "Role", "Runtime", "Handler", "Environment", "MemorySize", "Timeout", "Description", "TracingConfig", "EphemeralStorage")

    def create(self, ctx: Context, props: Json) -> Made:
        client = ctx.client("lambda")
        name = props.get("FunctionName") or ctx.name()
        tags = {"Tags": {t["Key"]: t["Value"] for t in props["Tags"]}} if props.get("Tags") else {}
        out = client.create_function(FunctionName=name, Code=self.code(props), **self.configuration(props), **pick(props, "Architectures"), **tags)
        self.settle(ctx, name, {}, props)
        return Made(name, {"Arn": out["FunctionArn"]})

    def settle(self, ctx: Context, name: str, old: Json, new: Json) -> None:
        client = ctx.client("lambda")
        reserved = new.get("ReservedConcurrentExecutions")
        if reserved is not None:
            client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)
        elif "ReservedConcurrentExecutions" in old:
            client.delete_function_concurrency(FunctionName=name)
        group = (new.get("LoggingConfig") or {}).get("LogGroup")
        from ..lambda_host import set_log_group  # moto drops LoggingConfig

        set_log_group(ctx.region, name, group)

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        client = ctx.client("lambda")
        if old["Code"] != new["Code"]:
            client.update_function_code(FunctionName=made.physical, **self.code(new))
        if self.configuration(old) != self.configuration(new):
            client.update_function_configuration(FunctionName=made.physical, **{"Environment": {"Variables": {}}, **self.configuration(new)})
        self.settle(ctx, made.physical, old, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("lambda").delete_function, FunctionName=made.physical)


@provides("AWS::Lambda::Permission")
class Permission(Provider):
    properties = {"Action", "FunctionName", "Principal", "SourceArn", "SourceAccount"}
    replace_on = properties

    def create(self, ctx: Context, props: Json) -> Made:
        sid = f"{ctx.stack}-{ctx.logical}-{uuid.uuid4().hex[:12]}"
        ctx.client("lambda").add_permission(StatementId=sid, **props)
        return Made(sid)

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("lambda").remove_permission, FunctionName=props["FunctionName"], StatementId=made.physical)


@provides("AWS::Lambda::EventInvokeConfig")
class EventInvokeConfig(Provider):
    properties = {"FunctionName", "Qualifier", "MaximumEventAgeInSeconds", "MaximumRetryAttempts", "DestinationConfig"}
    replace_on = {"FunctionName", "Qualifier"}

    def put(self, ctx: Context, props: Json) -> None:
        if props["Qualifier"] != "$LATEST":
            raise NotImplementedError(f"a qualifier {props['Qualifier']!r} (only $LATEST runs here)")
        client = ctx.client("lambda")
        gone(client.delete_function_event_invoke_config, FunctionName=props["FunctionName"])  # moto appends instead of replacing
        client.put_function_event_invoke_config(FunctionName=props["FunctionName"],
                                                **pick(props, "MaximumEventAgeInSeconds", "MaximumRetryAttempts", "DestinationConfig"))  # fmt: skip

    def create(self, ctx: Context, props: Json) -> Made:
        self.put(ctx, props)
        return Made(ctx.name())

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        self.put(ctx, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("lambda").delete_function_event_invoke_config, FunctionName=props["FunctionName"])


@provides("AWS::Events::EventBus")
class EventBus(Provider):
    properties = {"Name", "Description", "Tags"}
    replace_on = {"Name"}
    attributes = {"Arn", "Name"}

    def create(self, ctx: Context, props: Json) -> Made:
        arn = ctx.client("events").create_event_bus(Name=props["Name"], **pick(props, "Description"), **tag_list(props))["EventBusArn"]
        return Made(props["Name"], {"Arn": arn, "Name": props["Name"]})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        return made  # description and tags only

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("events").delete_event_bus, Name=made.physical)


@provides("AWS::Events::Rule")
class Rule(Provider):
    properties = {"Name", "Description", "EventBusName", "EventPattern", "ScheduleExpression", "State", "Targets", "RoleArn"}
    replace_on = {"Name", "EventBusName"}
    attributes = {"Arn"}
    targets_known = {"Id", "Arn", "Input", "InputPath", "InputTransformer", "RetryPolicy", "DeadLetterConfig"}

    def put(self, ctx: Context, name: str, old: Json, props: Json) -> str:
        events = ctx.client("events")
        bus = pick(props, "EventBusName")
        for target in props.get("Targets", []):
            if set(target) - self.targets_known:
                raise NotImplementedError(f"{sorted(set(target) - self.targets_known)} of a rule's target")
        pattern = {"EventPattern": json.dumps(props["EventPattern"])} if "EventPattern" in props else {}
        arn = events.put_rule(Name=name, **bus, **pattern, **pick(props, "ScheduleExpression", "State", "Description", "RoleArn"))["RuleArn"]
        dropped = {t["Id"] for t in old.get("Targets", [])} - {t["Id"] for t in props.get("Targets", [])}
        if dropped:
            events.remove_targets(Rule=name, **bus, Ids=sorted(dropped))
        if props.get("Targets"):
            out = events.put_targets(Rule=name, **bus, Targets=props["Targets"])
            if out["FailedEntryCount"]:
                raise ValueError(f"PutTargets failed: {out['FailedEntries']}")
        return arn

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("Name") or ctx.name()
        arn = self.put(ctx, name, {}, props)
        bus = props.get("EventBusName", "default").split("/")[-1]
        return Made(name, {"Arn": arn}, ref=name if bus == "default" else f"{bus}|{name}")

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        if ("EventPattern" in old) != ("EventPattern" in new) or ("ScheduleExpression" in old) != ("ScheduleExpression" in new):
            self.delete(ctx, made, old)
            old = {}
        self.put(ctx, made.physical, old, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        events, bus = ctx.client("events"), pick(props, "EventBusName")
        if props.get("Targets"):
            gone(events.remove_targets, Rule=made.physical, **bus, Ids=[t["Id"] for t in props["Targets"]])
        gone(events.delete_rule, Name=made.physical, **bus)


@provides("AWS::Scheduler::Schedule")
class Schedule(Provider):
    properties = {"Name", "GroupName", "Description", "ScheduleExpression", "FlexibleTimeWindow", "State", "Target"}
    replace_on = {"Name", "GroupName"}
    attributes = {"Arn"}

    def arguments(self, props: Json) -> Json:
        from ..events import RATE

        if not RATE.fullmatch(props["ScheduleExpression"]):
            raise NotImplementedError(f"the schedule {props['ScheduleExpression']!r} (only rate() fires here)")
        return pick(props, "GroupName", "Description", "ScheduleExpression", "FlexibleTimeWindow", "State", "Target")

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("Name") or ctx.name()
        arn = ctx.client("scheduler").create_schedule(Name=name, **self.arguments(props))["ScheduleArn"]
        return Made(name, {"Arn": arn})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        ctx.client("scheduler").update_schedule(Name=made.physical, **self.arguments(new))
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("scheduler").delete_schedule, Name=made.physical, **pick(props, "GroupName"))


@provides("AWS::Logs::LogGroup")
class LogGroup(Provider):
    properties = {"LogGroupName", "RetentionInDays", "Tags", "LogGroupClass"}
    replace_on = {"LogGroupName"}
    attributes = {"Arn"}

    def create(self, ctx: Context, props: Json) -> Made:
        name = props.get("LogGroupName") or ctx.name(512)
        ctx.client("logs").create_log_group(logGroupName=name)
        self.settle(ctx, name, props)
        return Made(name, {"Arn": ctx.arn("logs", f"log-group:{name}:*")})

    def settle(self, ctx: Context, name: str, props: Json) -> None:
        logs: Any = ctx.client("logs")
        if "RetentionInDays" in props:
            logs.put_retention_policy(logGroupName=name, retentionInDays=props["RetentionInDays"])
        else:
            logs.delete_retention_policy(logGroupName=name)

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        self.settle(ctx, made.physical, new)
        return made

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        gone(ctx.client("logs").delete_log_group, logGroupName=made.physical)
