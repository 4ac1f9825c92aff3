"""Runs the deployed zips: environments per function, concurrency, retries of asynchronous invokes, records of every run."""

from __future__ import annotations

import io
import itertools
import json
import os
import queue
import signal
import threading
import time
import uuid
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moto.awslambda.models import LambdaFunction, lambda_backends

from . import ACCOUNT
from .credentials import Credentials
from .iam import trust_allows
from .knobs import KnobBoard
from .locks import LOCKS
from .principals import NoSuchRole, role_by_arn
from .runtime_api import INIT_LIMIT_S, Environment, Work, scratch_directory
from .timeline import Timeline

KEPT_RUNS = 5_000
MAX_RECORDED = 64 * 1024  # bytes of a request or response kept in a record
ASYNC_RETRIES = 2  # AWS's default
ASYNC_RETRY_WAIT_S = (60.0, 120.0)  # AWS: one minute, then two; divided by the knob time_scale
MAX_EVENT_AGE_S = 6 * 3600.0
MAX_ENVIRONMENTS = 48  # processes kept, busy and idle; beyond it the longest idle one makes room
FINISHING_S = 0.05  # how long an invocation waits for an environment between its answer and its next request for work
SYNC_PAYLOAD_LIMIT = 6 * 1024 * 1024
ASYNC_PAYLOAD_LIMIT = 1024 * 1024


class InvokeError(Exception):
    def __init__(self, code: str, message: str, status: int):
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class Run:
    """The record of one attempt."""

    def __init__(self, seq: int, function: str, request_id: str, trigger: dict[str, Any], attempt: int, payload: bytes):
        self.data: dict[str, Any] = {
            "seq": seq, "function": function, "request_id": request_id, "trigger": trigger, "attempt": attempt, "status": "running",
            "cold": None, "init_ms": None, "run_ms": None, "error": None, "environment": None, "started": time.time(), "ended": None,
            "peak_memory_kb": None, "request": shown(payload), "response": None, "log": None,
        }  # fmt: skip


def shown(payload: bytes) -> Any:
    if len(payload) > MAX_RECORDED:
        return f"({len(payload)} bytes)"
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return payload.decode("utf-8", "replace")


class LambdaHost:
    def __init__(self, *, credentials: Credentials, knobs: KnobBoard, timeline: Timeline, directory: Path, endpoint: Callable[[], str],
                 log: Callable[..., None]):  # fmt: skip
        self.credentials, self.knobs, self.timeline, self.endpoint, self.log = credentials, knobs, timeline, endpoint, log
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "logs").mkdir(exist_ok=True)
        self.code: dict[str, Path] = {}
        self.spawn_lock = threading.Lock()  # a zip is never unpacked while another thread forks: ETXTBSY
        self.spawn_queue: queue.SimpleQueue[tuple[Environment, threading.Event] | None] = queue.SimpleQueue()
        self.lock = threading.Condition()
        self.environments: dict[str, tuple[str, Environment]] = {}  # id -> (pool key, environment)
        self.idle: dict[str, list[Environment]] = {}
        self.pool_of: dict[str, str] = {}  # function name -> current pool key
        self.runs: deque[Run] = deque(maxlen=KEPT_RUNS)
        self.sequence = 0
        self.by_key: dict[str, Environment] = {}
        self.log_queue: queue.SimpleQueue[tuple[LambdaFunction, str] | None] = queue.SimpleQueue()
        self.closed = False
        threading.Thread(target=self._spawner, name="lambda-spawner", daemon=True).start()
        threading.Thread(target=self._log_writer, name="lambda-logs", daemon=True).start()

    # --- finding ---

    def function(self, region: str, name: str) -> LambdaFunction:
        backend = lambda_backends[ACCOUNT][region]
        name = name.split(":function:")[-1].split(":")[0]
        try:
            found = backend._lambdas.get_function_by_name_or_arn_with_qualifier(name)
        except Exception:  # moto raises where its storage has nothing
            found = None
        if found is None:
            raise InvokeError("ResourceNotFoundException", f"Function not found: arn:aws:lambda:{region}:{ACCOUNT}:function:{name}", 404)
        return found

    # --- invoking ---

    def invoke(self, function: LambdaFunction, payload: bytes, trigger: dict[str, Any]) -> tuple[bytes, str | None, str]:
        """RequestResponse. Returns (payload, function error or None, log)."""
        if len(payload) > SYNC_PAYLOAD_LIMIT:
            raise InvokeError("RequestTooLargeException", f"{len(payload)} byte payload is too large for the RequestResponse invocation type", 413)
        run = self._run(function, payload, trigger, 1, str(uuid.uuid4()))
        body = run.data["_body"]
        return body, run.data["error"], run.data["log"] or ""

    def invoke_async(self, function: LambdaFunction, payload: bytes, trigger: dict[str, Any], request_id: str | None = None) -> None:
        """Event. Errors of the function are retried twice, refusals for want of capacity for hours, as Lambda's own queue does."""
        if len(payload) > ASYNC_PAYLOAD_LIMIT:
            raise InvokeError("RequestTooLargeException", f"{len(payload)} byte payload is too large for the Event invocation type", 413)
        self._attempt(function.region, function.function_name, payload, trigger, request_id or str(uuid.uuid4()), 1, time.monotonic())

    def _attempt(self, region: str, name: str, payload: bytes, trigger: dict[str, Any], request_id: str, attempt: int, queued: float) -> None:
        def go() -> None:
            if self.closed:
                return
            try:
                function = self.function(region, name)
            except InvokeError as gone:
                self.log("async invoke dropped", function=name, reason=gone.message)
                return
            retries, age = async_config(function)
            if time.monotonic() - queued > age:
                self.log("async invoke dropped: too old", function=name, request_id=request_id)
                send_failure(function, payload, request_id, "EventAgeExceeded", attempt - 1, None)
                return
            try:
                if self.knobs.lambda_outage:
                    raise InvokeError("ServiceException", "Lambda is down (knob lambda_outage)", 503)
                run = self._run(function, payload, trigger, attempt, request_id)
            except InvokeError:  # throttled or down: waits, not counted as an attempt
                self.timeline.after(1.0, lambda: self._attempt(region, name, payload, trigger, request_id, attempt, queued))
                return
            if run.data["error"] and attempt <= retries:
                wait = ASYNC_RETRY_WAIT_S[min(attempt, len(ASYNC_RETRY_WAIT_S)) - 1] / self.knobs.time_scale
                self.timeline.after(wait, lambda: self._attempt(region, name, payload, trigger, request_id, attempt + 1, queued))
            elif run.data["error"]:
                send_failure(function, payload, request_id, "RetriesExhausted", attempt, run.data["response"])
                self.log("async invoke failed for good", function=name, request_id=request_id, attempts=attempt, error=run.data["error"])

        self.timeline.after(0, go)

    def _run(self, function: LambdaFunction, payload: bytes, trigger: dict[str, Any], attempt: int, request_id: str) -> Run:
        environment, cold = self._environment(function)
        with self.lock:
            self.sequence += 1
            run = Run(self.sequence, function.function_name, request_id, trigger, attempt, payload)
            self.runs.append(run)
        run.data.update(cold=cold, environment=environment.id)
        if cold and not environment.wait_ready(INIT_LIMIT_S):
            environment.kill("init", f"INIT_REPORT Phase: init Status: timeout after {INIT_LIMIT_S:g} s", "Sandbox.Timedout")
        begun, limit = time.monotonic(), float(function.timeout)
        outcome = environment.invoke(Work(request_id, payload, limit, time.time() + limit, function.function_arn))
        run_ms = (time.monotonic() - begun) * 1000
        text = environment.new_log()
        run.data.update(
            init_ms=round(environment.init_ms, 2) if cold and environment.init_ms is not None else None, run_ms=round(run_ms, 2),
            error=outcome.error, status=outcome.error or "ok", response=shown(outcome.body), log=text[-MAX_RECORDED:], ended=time.time(),
            peak_memory_kb=environment.peak_memory_kb(), _body=outcome.body,
        )  # fmt: skip
        self.log_queue.put((function, f"START RequestId: {request_id} Version: $LATEST\n{text}END RequestId: {request_id}\n"
                            f"REPORT RequestId: {request_id}\tDuration: {run_ms:.2f} ms\tMemory Size: {function.memory_size} MB"))  # fmt: skip
        if environment.dead:
            self._retire(environment)
        return run

    def _environment(self, function: LambdaFunction) -> tuple[Environment, bool]:
        """An idle environment, or a new one. Newest idle first, as AWS seems to do; the rest age out."""
        key = json.dumps([function.function_arn, function.code_sha_256, function.environment_vars, function.role, function.memory_size,
                          function.timeout], sort_keys=True)  # fmt: skip
        with self.lock:
            if self.closed:
                raise InvokeError("ServiceException", "the local cloud is shutting down", 503)
            stale = self.pool_of.get(function.function_arn)
            self.pool_of[function.function_arn] = key
            doomed = list(self.idle.pop(stale, [])) if stale is not None and stale != key else []
            pool = self.idle.setdefault(key, [])
            # One that has answered and is about to ask for more work is as good as idle.
            self.lock.wait_for(lambda: pool or not any(k == key and e.finishing() for k, e in self.environments.values()), FINISHING_S)
            environment = None
            while pool and environment is None:
                environment = pool.pop()
                if environment.dead is not None:
                    environment = None
            if environment is None:
                mine = sum(1 for k, e in self.environments.values() if k == key and e.dead is None)
                busy = sum(1 for _, e in self.environments.values() if e.dead is None and not e.ready)
                reserved = function.reserved_concurrency
                if (reserved is not None and mine >= int(reserved)) or busy >= self.knobs.lambda_concurrency:
                    raise InvokeError("TooManyRequestsException", "Rate Exceeded.", 429)
                if len(self.environments) >= MAX_ENVIRONMENTS:
                    oldest = min((e for idle in self.idle.values() for e in idle), key=lambda e: e.idle_since, default=None)
                    if oldest is not None:
                        doomed.append(oldest)
                        for idle in self.idle.values():
                            if oldest in idle:
                                idle.remove(oldest)
                environment = self._new(function, key)
                self.environments[environment.id] = (key, environment)
                self.by_key[environment.access_key] = environment
                cold = True
            else:
                cold = False
        for old in doomed:
            self._retire(old)
        if cold:
            done = threading.Event()
            self.spawn_queue.put((environment, done))
            done.wait()
        return environment, cold

    def _new(self, function: LambdaFunction, key: str) -> Environment:
        try:
            assumed = role_by_arn(function.role)
        except NoSuchRole:
            assumed = None
        if assumed is None or not trust_allows(assumed.assume_role_policy_document, "lambda.amazonaws.com"):
            raise InvokeError("AccessDeniedException", "The role defined for the function cannot be assumed by Lambda.", 403)
        path = self.directory / "logs" / f"{function.function_name}-{uuid.uuid4().hex[:8]}.log"
        environment = Environment(command=self._unpacked(function) / "bootstrap", variables={}, log_path=path,
                                  on_ready=lambda env: self._ready(key, env), on_dead=self._retire)  # fmt: skip
        environment.freeze_between = self.knobs.lambda_freeze
        keys = self.credentials.issue(function.role, function.function_name, self.knobs.session_s,
                                      {"function": function.function_name, "environment": environment.id})  # fmt: skip
        environment.access_key = keys["AccessKeyId"]
        environment.variables = {
            "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "_HANDLER": function.handler or "bootstrap",
            "LAMBDA_TASK_ROOT": str(environment.command.parent),
            "AWS_REGION": function.region,
            "AWS_DEFAULT_REGION": function.region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.run_time}",
            "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_LOG_GROUP_NAME": function.logs_group_name,
            "AWS_LAMBDA_LOG_STREAM_NAME": time.strftime("%Y/%m/%d/[$LATEST]") + environment.id,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_SESSION_TOKEN": keys["Token"],
            "AWS_ENDPOINT_URL": self.endpoint(),
            **function.environment_vars,
        }
        return environment

    def _unpacked(self, function: LambdaFunction) -> Path:
        """The code directory, unpacked once per code version."""
        with self.spawn_lock:
            found = self.code.get(function.code_sha_256)
            if found is None:
                found = scratch_directory(self.directory)
                try:
                    with zipfile.ZipFile(io.BytesIO(function.code_bytes)) as archive:
                        archive.extractall(found)
                    (found / "bootstrap").chmod(0o755)
                except (zipfile.BadZipFile, FileNotFoundError) as error:
                    raise InvokeError("InvalidZipFileException", f"{function.function_name}: no runnable `bootstrap` in the zip: {error}", 502) from error
                self.code[function.code_sha_256] = found
            return found

    def _spawner(self) -> None:
        while True:
            job = self.spawn_queue.get()
            if job is None:
                return
            with self.spawn_lock:
                job[0].spawn()
            job[1].set()

    def _ready(self, key: str, environment: Environment) -> None:
        """The process waits for work: it goes into the pool, unless its first invocation is already on its way."""
        with self.lock:
            if environment.current is None and environment.work is None and environment.outcome is not None and environment.dead is None:
                if self.pool_of.get(json.loads(key)[0]) == key:
                    self.idle.setdefault(key, []).append(environment)
                    self.lock.notify_all()
                    self.timeline.after(self.knobs.lambda_idle_s + 0.1, lambda: self._age_out(key, environment))
                    return
            else:
                return
        self._retire(environment)

    def _age_out(self, key: str, environment: Environment) -> None:
        with self.lock:
            pool = self.idle.get(key, [])
            if environment not in pool or time.monotonic() - environment.idle_since < self.knobs.lambda_idle_s:
                return
            pool.remove(environment)
        self._retire(environment)

    def _retire(self, environment: Environment) -> None:
        environment.kill("retired", "environment retired")
        with self.lock:
            self.environments.pop(environment.id, None)
            self.by_key.pop(environment.access_key, None)
            for pool in self.idle.values():
                if environment in pool:
                    pool.remove(environment)
        # Its credentials stay known: a late call of a killed run (lambda_detach) still says whose it is.

    # --- what tests do to functions ---

    def control(self, spec: dict[str, Any]) -> dict[str, Any]:
        """{"function": name, "action": kill|freeze|thaw|retire [, "environment": id]}"""
        unknown = set(spec) - {"function", "action", "environment"}
        if unknown or "action" not in spec or "function" not in spec:
            raise ValueError('wanted {"function": NAME, "action": "kill|freeze|thaw|retire", "environment": ID (optional)}' + (f"; unknown: {sorted(unknown)}" if unknown else ""))
        with self.lock:
            mine = [e for k, e in self.environments.values() if json.loads(k)[0].endswith(":function:" + spec["function"])
                    and spec.get("environment") in (None, e.id)]  # fmt: skip
        hit = []
        for environment in mine:
            if spec["action"] == "kill":
                environment.kill("killed", "killed by the test")
            elif spec["action"] == "freeze":
                environment.signal_group(signal.SIGSTOP)
            elif spec["action"] == "thaw":
                environment.signal_group(signal.SIGCONT)
            elif spec["action"] == "retire":
                if environment.current is not None or not environment.ready:
                    continue
                self._retire(environment)
            else:
                raise ValueError(f"action {spec['action']!r}; allowed: kill, freeze, thaw, retire")
            hit.append(environment.id)
        return {"environments": hit}

    def kill_by_key(self, access_key: str, why: str) -> bool:
        with self.lock:
            environment = self.by_key.get(access_key)
        if environment is None:
            return False
        environment.kill("killed", why)
        return True

    def after(self, sequence: int) -> list[dict[str, Any]]:
        with self.lock:
            newest = itertools.takewhile(lambda r: r.data["seq"] > sequence, reversed(self.runs))
            return [{k: v for k, v in r.data.items() if not k.startswith("_")} for r in newest][::-1]

    def describe(self) -> list[dict[str, Any]]:
        with self.lock:
            return [
                {"function": json.loads(k)[0].rsplit(":", 1)[-1], "environment": e.id, "pid": e.process.pid if e.process else None,
                 "busy": e.current is not None, "dead": e.dead, "init_ms": e.init_ms}
                for k, e in self.environments.values()
            ]  # fmt: skip

    def close(self) -> None:
        with self.lock:
            self.closed = True
            all_of_them = [e for _, e in self.environments.values()]
        for environment in all_of_them:
            environment.kill("shutdown", "the local cloud shuts down")
        self.spawn_queue.put(None)
        self.log_queue.put(None)

    def _log_writer(self) -> None:
        """Into CloudWatch Logs, off the invocation's path."""
        while (job := self.log_queue.get()) is not None:
            function, text = job
            try:
                with LOCKS["logs"]:
                    function.logs_backend.ensure_log_group(function.logs_group_name)
                    function.save_logs(text)
            except Exception as error:
                self.log("function log lost", function=function.function_name, error=repr(error))


def async_config(function: LambdaFunction) -> tuple[int, float]:
    """(retries, greatest age in seconds) from the function's EventInvokeConfig."""
    for config in getattr(function, "event_invoke_config", None) or []:
        described = config if isinstance(config, dict) else config.response()
        return int(described.get("MaximumRetryAttempts", ASYNC_RETRIES)), float(described.get("MaximumEventAgeInSeconds", MAX_EVENT_AGE_S))
    return ASYNC_RETRIES, MAX_EVENT_AGE_S


def send_failure(function: LambdaFunction, payload: bytes, request_id: str, condition: str, attempts: int, response: Any) -> None:
    """To the OnFailure destination, if it is an SQS queue (the only kind known here)."""
    for config in function.event_invoke_config or []:
        target = (config.config.get("DestinationConfig") or {}).get("OnFailure", {}).get("Destination", "")
        if ":sqs:" in target:
            from moto.sqs.models import sqs_backends

            record = {"version": "1.0", "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
                      "requestContext": {"requestId": request_id, "functionArn": function.function_arn + ":$LATEST", "condition": condition,
                                         "approximateInvokeCount": attempts},
                      "requestPayload": json.loads(payload)}  # fmt: skip
            if response is not None:
                record |= {"responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}, "responsePayload": response}
            with LOCKS["sqs"]:
                sqs_backends[ACCOUNT][function.region].send_message(target.rsplit(":", 1)[-1], json.dumps(record))


def set_log_group(region: str, name: str, group: str | None) -> None:
    """LoggingConfig.LogGroup of a function."""
    function = lambda_backends[ACCOUNT][region]._lambdas.get_function_by_name_or_arn_with_qualifier(name)
    function.logs_group_name = group or f"/aws/lambda/{name}"
