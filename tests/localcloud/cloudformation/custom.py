"""Custom resources: the function is invoked, and its answer to ResponseURL decides."""

from __future__ import annotations

import json
import secrets
import threading
import uuid
from collections.abc import Callable
from typing import Any

from ..lambda_host import InvokeError, LambdaHost
from .providers import REGISTRY, Context, Json, Made, Provider

LONGEST_S = 300.0  # AWS waits an hour; a stuck test should not
PATH = "/_localcloud/cloudformation/response/"


class CustomResourceFailed(Exception):
    def __init__(self, message: str, physical: str | None = None):
        super().__init__(message)
        self.physical = physical  # the id that a failed answer named


class Waiting:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Json | None = None


def strings(value: Any) -> Any:
    """CloudFormation hands every property to the function as a string."""
    if isinstance(value, dict):
        return {k: strings(v) for k, v in value.items()}
    if isinstance(value, list):
        return [strings(v) for v in value]
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(value)


class Custom(Provider):
    properties = None  # type: ignore[assignment]  # any: they are the function's

    def __init__(self, *, host: LambdaHost, base: Callable[[], str], stack_id: Callable[[str, str], str]):
        self.host, self.base, self.stack_id = host, base, stack_id
        self.waiting: dict[str, Waiting] = {}

    def answered(self, token: str, body: bytes) -> bool:
        """The function's PUT to its ResponseURL."""
        waiting = self.waiting.get(token)
        if waiting is None or waiting.done.is_set():
            return False
        try:
            waiting.answer = json.loads(body)
        except ValueError:
            waiting.answer = {"Status": "FAILED", "Reason": f"the answer to ResponseURL is not JSON: {body[:200]!r}"}
        waiting.done.set()
        return True

    def ask(self, ctx: Context, kind: str, props: Json, physical: str | None, old: Json | None = None) -> Json:
        token, waiting, request_id = secrets.token_hex(16), Waiting(), str(uuid.uuid4())
        self.waiting[token] = waiting
        event = {"RequestType": kind, "ServiceToken": props["ServiceToken"], "ResponseURL": self.base() + PATH + token,
                 "StackId": self.stack_id(ctx.region, ctx.stack), "RequestId": request_id, "LogicalResourceId": ctx.logical,
                 "ResourceType": ctx.kind, "ResourceProperties": strings(props)}  # fmt: skip
        if physical is not None:
            event["PhysicalResourceId"] = physical
        if old is not None:
            event["OldResourceProperties"] = strings(old)
        try:
            function = self.host.function(ctx.region, props["ServiceToken"])
        except InvokeError as gone:
            raise CustomResourceFailed(gone.message) from None
        broke: list[str] = []

        def run() -> None:
            try:
                body, error, _ = self.host.invoke(function, json.dumps(event).encode(), {"type": "custom-resource", "stack": ctx.stack, "request": kind})
                if error:
                    broke.append(body.decode("utf-8", "replace"))
                    waiting.done.set()
            except InvokeError as refused:
                broke.append(f"{refused.code}: {refused.message}")
                waiting.done.set()

        threading.Thread(target=run, name="custom-resource", daemon=True).start()
        limit = min(LONGEST_S, float(props.get("ServiceTimeout", LONGEST_S)))
        waiting.done.wait(limit)
        del self.waiting[token]
        if waiting.answer is None:
            # AWS would wait for its full time-out; an answer that cannot come any more is not waited for here.
            raise CustomResourceFailed(f"the function failed without answering: {broke[0]}" if broke else
                                       f"CloudFormation did not receive a response from your Custom Resource within {limit:g} s")  # fmt: skip
        answer = waiting.answer
        wrong = [k for k, v in (("StackId", event["StackId"]), ("RequestId", request_id), ("LogicalResourceId", ctx.logical)) if answer.get(k) != v]
        if wrong:
            raise CustomResourceFailed(f"Invalid response object: Value of property {wrong[0]} does not match the request's")
        if answer.get("Status") != "SUCCESS":
            raise CustomResourceFailed(f"Received response status [{answer.get('Status')}] from custom resource. Message returned: {answer.get('Reason', '(none)')}",
                                       answer.get("PhysicalResourceId"))  # fmt: skip
        if not isinstance(answer.get("PhysicalResourceId"), str) or not answer["PhysicalResourceId"]:
            raise CustomResourceFailed("Invalid PhysicalResourceId")
        return answer

    def create(self, ctx: Context, props: Json) -> Made:
        try:
            answer = self.ask(ctx, "Create", props, None)
        except CustomResourceFailed as failed:
            if failed.physical:  # AWS cleans up what a failed creation names
                try:
                    self.ask(ctx, "Delete", props, failed.physical)
                except CustomResourceFailed:
                    pass
            raise
        return Made(answer["PhysicalResourceId"], answer.get("Data") or {})

    def update(self, ctx: Context, made: Made, old: Json, new: Json) -> Made:
        answer = self.ask(ctx, "Update", new, made.physical, old)
        return Made(answer["PhysicalResourceId"], answer.get("Data") or {})

    def delete(self, ctx: Context, made: Made, props: Json) -> None:
        self.ask(ctx, "Delete", props, made.physical)


def install(**parts: Any) -> Custom:
    provider = Custom(**parts)
    REGISTRY["Custom"] = provider
    return provider
