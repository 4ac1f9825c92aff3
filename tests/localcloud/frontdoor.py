"""Every API request's way through the cloud, in this order:

    parse -> caller -> faults before -> permission -> known to us? -> lock, moto -> what changed -> audit -> faults after -> answer
"""

from __future__ import annotations

import functools
import json
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

from moto.backends import get_backend
from moto.core import responses as core_responses
from moto.core.base_backend import BackendDict
from moto.core.exceptions import ServiceException
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.exceptions import HTTPException

from . import ACCOUNT, errors
from .api_call import Call, DirectRequest, environ, parse
from .audit import AuditLog, is_mutating
from .cloudformation.api import CloudFormationApi
from .coverage import gap
from .credentials import Credentials, Principal, UnknownKey
from .faults import MAX_HOLD_S, Faults, Rule
from .http_server import Request, Reset, Response
from .iam import PolicyError, evaluate
from .iam_context import checks, known_key
from .knobs import KnobBoard
from .lambda_host import InvokeError, LambdaHost
from .lateness import Lateness
from .locks import handling, lock_of
from .principals import NoSuchRole, role_documents
from .throttling import Buckets

# Services with one path and one dispatcher: called directly, without Flask's routing.
DIRECT = {"dynamodb", "ec2", "events", "sts", "iam", "logs", "ssm", "cloudformation", "sqs", "sns", "kms", "ecr", "tagging", "cloudwatch"}
SIGNED_AS = {"monitoring": "cloudwatch"}
# moto lists a response class's methods anew for every call: most of the time of a small one.
core_responses.method_names_from_class = functools.cache(core_responses.method_names_from_class)
INVOKE = re.compile(r"/2015-03-31/functions/([^/]+)/invocations")


class FrontDoor:
    def __init__(self, *, port: Callable[[], int], credentials: Credentials, faults: Faults, knobs: KnobBoard, audit: AuditLog, host: LambdaHost,
                 ec2_changed: Callable[[], None], lateness: Lateness, log: Callable[..., None]):  # fmt: skip
        self.port, self.credentials, self.faults, self.knobs, self.audit, self.host = port, credentials, faults, knobs, audit, host
        self.ec2_changed, self.lateness, self.log = ec2_changed, lateness, log
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.dispatchers: dict[str, Any] = {}
        self.buckets = Buckets()
        self.trace = False  # logs every call
        self.calls = 0
        self.counts: dict[str, int] = {}

    def answer(self, request: Request) -> Response:
        if not self.trace:
            return self._answer(request)
        begun = time.monotonic()
        response = self._answer(request)
        call = parse(request)
        self.log("call", call=f"{call.service}:{call.action}" if call else f"unsigned {request.method} {request.target[:200]}", status=response.status,
                 ms=round((time.monotonic() - begun) * 1000, 2), error=response.body[:300].decode("utf-8", "replace") if response.status >= 400 else None)  # fmt: skip
        return response

    def _answer(self, request: Request) -> Response:
        call = parse(request)
        if call is None:
            return self._unsigned(request)
        call.service = SIGNED_AS.get(call.service, call.service)
        self.calls += 1
        name = f"{call.service}:{call.action}"
        self.counts[name] = self.counts.get(name, 0) + 1
        try:
            principal = self.credentials.principal(call.access_key)
        except UnknownKey:
            return errors.unknown_key(call.service)
        if principal.kind == "role":
            if time.time() >= principal.expires:
                return errors.expired(call.service)
            if call.token != principal.token:
                return errors.unknown_key(call.service)
        if call.service == "ec2" and self.knobs.ec2_throttling and not self.buckets.take(call.region, call.action, call.params):
            response = errors.throttled("ec2")
            if is_mutating(call.action):
                self._record(call, principal, response, False, None)
            return response
        rule = self.faults.pick(call.service, call.region, call.action, principal.names, call.params)
        if rule is not None:
            early = self._before(rule, call, principal)
            if early is not None:
                return early
        begun = time.monotonic()
        response, applied = self._judge_and_apply(call, principal)
        self.lateness.took(name, time.monotonic() - begun)
        if is_mutating(call.action):
            self._record(call, principal, response, applied, rule)
        if rule is not None:
            return self._after(rule, call, principal, response)
        return response

    # --- faults ---

    def _record(self, call: Call, principal: Principal, response: Response | None, applied: bool, rule: Rule | None) -> None:
        status = response.status if response is not None else 0
        error = error_code(response) if response is not None and status >= 400 else None
        self.audit.add(at=call.applied_at or time.time(), caller=principal.describe(), service=call.service, region=call.region, action=call.action, params=call.params,
                       status=status, error=error, applied=applied and status < 400, fault=f"{rule.kind} {rule.id}" if rule else None)  # fmt: skip

    def _before(self, rule: Rule, call: Call, principal: Principal) -> Response | None:
        """None: go on and apply it."""
        shown = {"service": call.service, "region": call.region, "action": call.action, "caller": principal.describe(), "params": shorten(call.params)}
        if rule.kind == "throttle":
            response = errors.throttled(call.service)
        elif rule.kind == "error":
            response = errors.error(call.service, rule.code, "injected by the test", rule.status)
        elif rule.kind == "refuse":
            self._record(call, principal, None, False, rule)
            raise Reset
        elif rule.kind == "drop":
            self._record(call, principal, None, False, rule)
            self.silence(call.request)
            raise Reset
        elif rule.kind == "delay":
            time.sleep(rule.delay_ms / 1000)
            return None
        elif rule.kind == "pause":
            self.faults.hold(rule, shown)
            if call.request.client_gone():
                self._record(call, principal, None, False, rule)
                raise Reset
            return None
        elif rule.kind == "kill_caller" and rule.when == "before":
            self._kill(rule, call, principal)
            self._record(call, principal, None, False, rule)
            raise Reset
        elif rule.kind == "lambda_detach":
            self._kill(rule, call, principal)
            self.faults.hold(rule, shown)
            return None
        else:
            return None
        if is_mutating(call.action):
            self._record(call, principal, response, False, rule)
        return response

    def _after(self, rule: Rule, call: Call, principal: Principal, response: Response) -> Response:
        if rule.kind == "kill_caller" and rule.when == "after":
            self._kill(rule, call, principal)
            raise Reset
        if rule.kind == "drop_after":
            self.silence(call.request)
            raise Reset
        return response

    def _kill(self, rule: Rule, call: Call, principal: Principal) -> None:
        if not self.host.kill_by_key(principal.access_key, f"killed by the test at {call.service}:{call.action}"):
            self.log("fault rule wants a Lambda caller; this one is none", rule=rule.id, kind=rule.kind, caller=principal.describe())

    def silence(self, request: Request) -> None:
        """Neither answer nor close, until the client has given up."""
        end = time.monotonic() + MAX_HOLD_S
        while time.monotonic() < end and not request.client_gone():
            time.sleep(0.05)

    # --- permission and work ---

    def _judge_and_apply(self, call: Call, principal: Principal) -> tuple[Response, bool]:
        if principal.kind == "role":
            refusal = self.refusal(call, principal)
            if refusal is not None:
                return refusal, False
        missing = gap(call)
        if missing:
            self.log("refused: not implemented", call=f"{call.service}:{call.action}", what=missing)
            return errors.not_implemented(call.service, missing), False
        if call.service == "ec2" and str(call.params.get("DryRun", "")).lower() == "true":
            return errors.error("ec2", "DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412), False
        return self.apply(call), True

    def refusal(self, call: Call, principal: Principal) -> Response | None:
        """None: the caller's policies allow the call."""
        try:
            documents = role_documents(principal.role_arn)
            with lock_of(call.service):  # looks at tables and tags
                questions = checks(call, principal)
            for question in questions:
                decision = evaluate(documents, question, known_key)
                if not decision.allowed:
                    why = ("with an explicit deny in an identity-based policy" if decision.explicit_deny
                           else f"because no identity-based policy allows the {question.action} action")  # fmt: skip
                    message = f"User: {principal.arn} is not authorized to perform: {question.action} on resource: {question.resource or '*'} {why}"
                    self.log("denied", caller=principal.describe(), action=question.action, resource=question.resource,
                             keys={k: v for k, v in question.context.items() if not k.startswith("aws:")})  # fmt: skip
                    return errors.denied(call.service, message)
        except NoSuchRole:
            return errors.unknown_key(call.service)
        except (PolicyError, NotImplementedError, ValueError) as problem:
            self.log("policy not judged", caller=principal.describe(), call=f"{call.service}:{call.action}", problem=str(problem))
            return errors.not_implemented(call.service, f"a policy of role {principal.role}: {problem}")
        return None

    def apply(self, call: Call) -> Response:
        invoke = INVOKE.fullmatch(call.request.path) if call.service == "lambda" else None
        if invoke and call.request.method == "POST":
            return self._invoke(call, invoke[1])
        if call.service == "events" and call.action == "PutEvents" and self.knobs.events_outage:
            return errors.error("events", "InternalException", "EventBridge is down (knob events_outage)", 503)
        try:
            with lock_of(call.service), handling(call):
                response = self._moto(call)
                call.applied_at = time.time()  # under the lock: two writes' times are in the order in which they were applied
        except ServiceException as error:  # raised where moto's own dispatch does not catch it
            return errors.error(call.service, error.code or type(error).__name__, str(error.message), 400)
        except NotImplementedError as missing:
            self.log("moto does not implement it", call=f"{call.service}:{call.action}", detail=str(missing))
            return errors.not_implemented(call.service, f"{call.service}:{call.action} ({missing})")
        except Exception as error:
            self.log("internal error", call=f"{call.service}:{call.action}", error=repr(error), trace=traceback.format_exc())
            return errors.error(call.service, "LocalCloudInternalError", f"{call.service}:{call.action} broke the local cloud: {error!r}. See its log.", 501)
        if call.service == "ec2" and response.status < 400 and is_mutating(call.action):
            self.ec2_changed()
        return response

    def _moto(self, call: Call) -> Response:
        env = environ(call.request, self.port())
        if call.service in DIRECT:
            return from_moto(self._dispatcher(call.service), env)
        return from_wsgi(self.moto, env)

    def _dispatcher(self, service: str) -> Any:
        found = self.dispatchers.get(service)
        if found is None and service == "cloudformation":
            found = self.dispatchers[service] = CloudFormationApi.dispatch
        elif found is None:
            backends: Any = get_backend(service)
            if isinstance(backends, BackendDict):
                regions = backends[ACCOUNT]
                backend = regions["us-east-1"] if "us-east-1" in regions else regions["aws"]
            else:
                backend = backends["global"]
            found = next(handler for path, handler in backend.flask_paths.items() if path in ("/", "") or path.rstrip("/") == "")
            self.dispatchers[service] = found
        return found

    def _invoke(self, call: Call, name: str) -> Response:
        kind = call.request.headers.get("x-amz-invocation-type", "RequestResponse")
        trigger = {"type": "invoke", "invocation_type": kind}
        try:
            if self.knobs.lambda_outage:
                raise InvokeError("ServiceException", "Lambda is down (knob lambda_outage)", 503)
            function = self.host.function(call.region, name)
            if call.request.body:
                try:
                    json.loads(call.request.body)
                except ValueError as bad:
                    raise InvokeError("InvalidRequestContentException", f"Could not parse request body into json: {bad}", 400) from None
            if kind == "DryRun":
                return Response(204, b"", [("x-amz-executed-version", "$LATEST")])
            if kind == "Event":
                self.host.invoke_async(function, call.request.body, trigger)
                return Response(202, b"", [("x-amz-executed-version", "$LATEST")])
            body, error, text = self.host.invoke(function, call.request.body or b"{}", trigger)
        except InvokeError as refused:
            return errors.error("lambda", refused.code, refused.message, refused.status)
        headers = [("content-type", "application/json"), ("x-amz-executed-version", "$LATEST")]
        if error:
            headers.append(("x-amz-function-error", "Unhandled"))
        if call.request.headers.get("x-amz-log-type", "") == "Tail":
            import base64

            headers.append(("x-amz-log-result", base64.b64encode(text.encode()[-4096:]).decode()))
        return Response(200, body, headers)

    def _unsigned(self, request: Request) -> Response:
        """Presigned-like callbacks and S3 without a signature reach moto as they are."""
        try:
            return from_wsgi(self.moto, environ(request, self.port()))
        except Exception as error:
            self.log("unsigned request failed", target=request.target[:200], error=repr(error))
            return errors.error("s3", "InternalError", repr(error), 500)


def from_moto(dispatch: Any, env: dict[str, Any]) -> Response:
    request = DirectRequest(env)
    try:
        result = dispatch(request, request.raw_url, dict(request.headers))
    except HTTPException as error:
        answer = error.get_response(env)
        return Response(answer.status_code, answer.get_data(), list(answer.headers.items()))
    status, headers, content = result if isinstance(result, tuple) and len(result) == 3 else (200, {}, result)
    body = content.encode() if isinstance(content, str) else (content or b"")
    return Response(int(status), body, [(k, str(v)) for k, v in headers.items() if k.lower() not in ("content-length", "status")])


def from_wsgi(app: Any, env: dict[str, Any]) -> Response:
    response = Response()

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        response.status = int(status.split(" ", 1)[0])
        response.headers = [(k, v) for k, v in headers if k.lower() not in ("connection",)]

    chunks = app(env, start)
    response.body = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    if env["REQUEST_METHOD"] != "HEAD":
        response.headers = [(k, v) for k, v in response.headers if k.lower() != "content-length"]
    return response


def error_code(response: Response) -> str:
    body = response.body.decode("utf-8", "replace")
    found = re.search(r"<Code>([^<]+)</Code>", body) or re.search(r'"__type":\s*"(?:[^"#]*#)?([^"]+)"', body)
    if found:
        return found[1]
    return next((v for k, v in response.headers if k.lower() == "x-amzn-errortype"), f"HTTP {response.status}")


def shorten(params: dict[str, Any]) -> dict[str, Any]:
    return {k: v if len(str(v)) <= 500 else str(v)[:500] + "..." for k, v in params.items()}
