"""Lambda's documented behaviour, with functions that are small scripts."""

from __future__ import annotations

import time
import uuid

import pytest
from botocore.exceptions import ClientError

from .conftest import Kit, raw_zip, until

ECHO = """
import itertools
COUNT = itertools.count(1)
def handle(event):
    if "sleep" in event: time.sleep(event["sleep"])
    if event.get("fail"): raise ValueError("asked to fail")
    if event.get("exit"): sys.exit(3)
    print("saw", event, flush=True)
    return {"n": next(COUNT), "event": event, "memory": os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "pid": os.getpid()}
"""


def test_the_first_invocation_is_cold_and_the_next_reuses_the_environment(kit: Kit) -> None:
    name = kit.function(ECHO, MemorySize=256)
    first, second = kit.invoke(name, {"a": 1}), kit.invoke(name, {"a": 2})
    assert first["StatusCode"] == 200 and "FunctionError" not in first
    assert first["value"]["memory"] == "256"
    assert (first["value"]["n"], second["value"]["n"]) == (1, 2)
    assert first["value"]["pid"] == second["value"]["pid"]
    runs = kit.runs(name)
    assert [r["cold"] for r in runs] == [True, False]
    assert runs[0]["init_ms"] > 0 and runs[1]["init_ms"] is None
    assert runs[0]["request"] == {"a": 1} and runs[0]["response"]["event"] == {"a": 1}
    assert runs[0]["status"] == "ok" and "saw" in runs[0]["log"]


def test_an_idle_environment_is_frozen(kit: Kit) -> None:
    name = kit.function(ECHO)
    pid = kit.invoke(name)["value"]["pid"]

    def stopped() -> bool:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "T"

    until(stopped)
    assert kit.invoke(name)["value"]["pid"] == pid


def test_a_functions_exception_is_an_unhandled_error_with_its_payload(kit: Kit) -> None:
    out = kit.invoke(kit.function(ECHO), {"fail": True})
    assert out["FunctionError"] == "Unhandled"
    assert out["value"]["errorMessage"] == "asked to fail"


def test_a_function_that_exits_is_reported_and_the_next_invocation_starts_anew(kit: Kit) -> None:
    name = kit.function(ECHO)
    out = kit.invoke(name, {"exit": True})
    assert out["FunctionError"] == "Unhandled" and "exit status 3" in out["value"]["errorMessage"]
    assert kit.invoke(name)["value"]["n"] == 1
    assert [r["cold"] for r in kit.runs(name)] == [True, True]


def test_the_timeout_kills_the_function(kit: Kit) -> None:
    name = kit.function(ECHO, Timeout=1)
    begun = time.monotonic()
    out = kit.invoke(name, {"sleep": 30})
    assert 0.9 < time.monotonic() - begun < 2.5
    assert out["FunctionError"] == "Unhandled" and "Task timed out after 1.00 seconds" in out["value"]["errorMessage"]
    assert kit.runs(name)[0]["status"] == "timeout"


def test_concurrent_invocations_get_environments_of_their_own(kit: Kit) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = kit.function(ECHO)
    with ThreadPoolExecutor(3) as pool:
        pids = {f["value"]["pid"] for f in pool.map(lambda _: kit.invoke(name, {"sleep": 0.3}), range(3))}
    assert len(pids) == 3


def test_reserved_concurrency_refuses_with_429(kit: Kit) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = kit.function(ECHO)
    kit.client("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(kit.invoke, name, {"sleep": 0.8})
        until(lambda: kit.runs(name))
        with pytest.raises(ClientError) as refused:
            kit.invoke(name)
        assert refused.value.response["Error"]["Code"] == "TooManyRequestsException"
        busy.result()


def test_asynchronous_errors_are_retried_twice(kit: Kit) -> None:
    kit.cloud.knobs.set({"time_scale": 600.0})  # AWS waits one and two minutes
    name = kit.function(ECHO)
    assert kit.invoke(name, {"fail": True}, InvocationType="Event")["StatusCode"] == 202
    runs = until(lambda: r if len(r := kit.runs(name)) == 3 and r[-1]["ended"] else None)
    assert [r["attempt"] for r in runs] == [1, 2, 3]
    assert len({r["request_id"] for r in runs}) == 1
    time.sleep(0.5)
    assert len(kit.runs(name)) == 3


def test_an_event_invoke_config_sets_the_retries(kit: Kit) -> None:
    kit.cloud.knobs.set({"time_scale": 6000.0})
    name = kit.function(ECHO)
    kit.client("lambda").put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    kit.invoke(name, {"fail": True}, InvocationType="Event")
    until(lambda: kit.runs(name) and kit.runs(name)[0]["ended"])
    time.sleep(0.2)
    assert len(kit.runs(name)) == 1


def test_the_function_runs_with_its_roles_credentials(kit: Kit) -> None:
    name = kit.function("def handle(event): return {k: os.environ[k] for k in ('AWS_ACCESS_KEY_ID', 'AWS_SESSION_TOKEN', 'AWS_ENDPOINT_URL')}")
    seen = kit.invoke(name)["value"]
    principal = kit.cloud.credentials.principal(seen["AWS_ACCESS_KEY_ID"])
    assert (principal.kind, principal.session) == ("role", name)
    assert seen["AWS_SESSION_TOKEN"] == principal.token
    assert seen["AWS_ENDPOINT_URL"] == f"http://localhost:{kit.cloud.port}"


def test_a_changed_configuration_takes_a_new_environment(kit: Kit) -> None:
    name = kit.function(ECHO)
    first = kit.invoke(name)["value"]["pid"]
    kit.client("lambda").update_function_configuration(FunctionName=name, Environment={"Variables": {"A": "b"}})
    assert kit.invoke(name)["value"]["pid"] != first


def test_logs_reach_cloudwatch_logs(kit: Kit) -> None:
    name = kit.function(ECHO)
    kit.invoke(name, {"mark": "findme"})
    logs = kit.client("logs")

    def found() -> bool:
        try:
            events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
        except ClientError:
            return False
        return any("findme" in e["message"] for e in events) and any(e["message"].startswith("REPORT RequestId") for e in events)

    until(found)


def test_the_log_tail_comes_with_the_answer_when_asked_for(kit: Kit) -> None:
    import base64

    out = kit.invoke(kit.function(ECHO), {"mark": "tail"}, LogType="Tail")
    assert b"tail" in base64.b64decode(out["LogResult"])


def test_an_unknown_function_is_not_found(kit: Kit) -> None:
    with pytest.raises(ClientError) as missing:
        kit.invoke("nobody-" + uuid.uuid4().hex)
    assert missing.value.response["Error"]["Code"] == "ResourceNotFoundException"


def test_a_payload_that_is_not_json_is_refused(kit: Kit) -> None:
    name = kit.function(ECHO)
    with pytest.raises(ClientError) as refused:
        kit.client("lambda").invoke(FunctionName=name, Payload=b"{not json")
    assert refused.value.response["Error"]["Code"] == "InvalidRequestContentException"


def test_a_zip_without_bootstrap_is_refused_when_invoked(kit: Kit) -> None:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("other", "x")
    with pytest.raises(ClientError) as refused:
        kit.invoke(kit.function("", zipped=out.getvalue()))
    assert refused.value.response["Error"]["Code"] == "InvalidZipFileException"


def test_a_bootstrap_that_dies_in_init_is_an_error_not_a_hang(kit: Kit) -> None:
    out = kit.invoke(kit.function("", zipped=raw_zip("#!/bin/sh\nexit 7\n")))
    assert out["FunctionError"] == "Unhandled" and "exit status 7" in out["value"]["errorMessage"]


def test_a_role_that_lambda_may_not_assume_is_refused(kit: Kit) -> None:
    name = kit.function(ECHO)
    role = kit.role([], service="ec2.amazonaws.com")
    kit.client("lambda").update_function_configuration(FunctionName=name, Role=role)
    with pytest.raises(ClientError) as refused:
        kit.invoke(name)
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"


def test_kill_and_retire_from_the_control_api(kit: Kit) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = kit.function(ECHO)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(kit.invoke, name, {"sleep": 30})
        until(lambda: kit.runs(name))
        time.sleep(0.1)
        assert len(kit.control("POST", "lambda", {"function": name, "action": "kill"})["environments"]) == 1
        assert busy.result()["FunctionError"] == "Unhandled"
    assert kit.runs(name)[0]["status"] == "killed"
    kit.invoke(name)
    until(lambda: kit.control("POST", "lambda", {"function": name, "action": "retire"})["environments"])
    kit.invoke(name)
    assert kit.runs(name)[-1]["cold"] is True


def test_freeze_and_thaw_a_running_invocation(kit: Kit) -> None:
    from concurrent.futures import ThreadPoolExecutor

    name = kit.function(ECHO)
    kit.invoke(name)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(kit.invoke, name, {"sleep": 0.3})
        until(lambda: len(kit.runs(name)) == 2)
        kit.control("POST", "lambda", {"function": name, "action": "freeze"})
        time.sleep(0.8)
        assert not busy.done()
        kit.control("POST", "lambda", {"function": name, "action": "thaw"})
        assert "FunctionError" not in busy.result()


def test_an_event_that_waited_longer_than_its_age_goes_to_the_on_failure_queue(kit: Kit) -> None:
    import json

    name, queue = kit.function(ECHO), "q-" + uuid.uuid4().hex[:8]
    url = kit.client("sqs").create_queue(QueueName=queue)["QueueUrl"]
    kit.client("lambda").put_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=60, DestinationConfig={
        "OnFailure": {"Destination": f"arn:aws:sqs:ap-northeast-1:123456789012:{queue}"}})  # fmt: skip
    kit.cloud.host._attempt("ap-northeast-1", name, b"{}", {"type": "event"}, "id-1", 1, time.monotonic() - 61)
    message = until(lambda: kit.client("sqs").receive_message(QueueUrl=url).get("Messages"))[0]
    assert json.loads(message["Body"])["requestContext"]["condition"] == "EventAgeExceeded"
    assert kit.runs(name) == []
