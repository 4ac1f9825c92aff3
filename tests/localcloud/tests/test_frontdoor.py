"""The front door: routing, loud refusals; the HTTP server; the self-check; the timeline."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.request

import pytest
from botocore.exceptions import ClientError

from localcloud import selfcheck
from localcloud.http_server import HttpServer, Request, Response
from localcloud.timeline import Timeline

from .conftest import Kit


def refused(call: object, **arguments: object) -> tuple[int, str]:
    with pytest.raises(ClientError) as error:
        call(**arguments)  # type: ignore[operator]
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"], error.value.response["Error"]["Message"]


def test_unknown_apis_and_parameters_are_refused_loudly(kit: Kit) -> None:
    status, message = refused(kit.client("ec2").describe_capacity_blocks)
    assert status == 501 and "DescribeCapacityBlocks" in message
    table = kit.table()
    status, message = refused(kit.client("dynamodb").get_item, TableName=table, Key={"cluster": {"S": "a"}, "item": {"S": "b"}}, AttributesToGet=["x"])
    assert status == 501 and "AttributesToGet" in message
    assert kit.cloud.problems["refused: not implemented"] >= 1


def test_unknown_filters_are_refused(kit: Kit) -> None:
    status, _ = refused(kit.client("ec2").describe_instances, Filters=[{"Name": "no-such-filter", "Values": ["x"]}])
    assert status == 501


def test_regions_are_separate(kit: Kit) -> None:
    table = kit.table()
    assert table in kit.client("dynamodb").list_tables()["TableNames"]
    assert table not in kit.client("dynamodb", region="us-west-2").list_tables()["TableNames"]


def test_all_old_comes_with_a_failed_condition(kit: Kit) -> None:
    table, db = kit.table(), kit.client("dynamodb")
    key = {"cluster": {"S": "web"}, "item": {"S": "lease"}}
    db.put_item(TableName=table, Item={**key, "rev": {"N": "5"}})
    with pytest.raises(db.exceptions.ConditionalCheckFailedException) as failed:
        db.update_item(TableName=table, Key=key, UpdateExpression="SET rev = :n", ConditionExpression="rev = :o", ReturnValuesOnConditionCheckFailure="ALL_OLD",
                       ExpressionAttributeValues={":n": {"N": "6"}, ":o": {"N": "4"}})  # fmt: skip
    assert failed.value.response["Item"]["rev"] == {"N": "5"}


def test_s3_puts_and_gets_whole_objects(kit: Kit) -> None:
    s3 = kit.client("s3", s3={"addressing_style": "path"})
    s3.create_bucket(Bucket="b-objects", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
    body = bytes(range(256)) * 5000
    s3.put_object(Bucket="b-objects", Key="a/b c.zip", Body=body)
    assert s3.get_object(Bucket="b-objects", Key="a/b c.zip")["Body"].read() == body
    assert s3.head_object(Bucket="b-objects", Key="a/b c.zip")["ContentLength"] == len(body)


def test_the_self_check_names_what_is_wrong() -> None:
    selfcheck.check()
    with pytest.raises(selfcheck.SelfCheckFailed, match=r"moto is .*5\.2\.5.*9\.9"):
        selfcheck.check(version="9.9")
    with pytest.raises(selfcheck.SelfCheckFailed, match="Rule.no_such_name is gone"):
        selfcheck.check(patched=[("moto.events.models", "Rule.no_such_name")])


# --- HTTP ---


@pytest.fixture
def server():  # type: ignore[no-untyped-def]
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        if request.path == "/boom":
            raise ValueError("broken")
        return Response(200, request.body[::-1], [("x-method", request.method)])

    made = HttpServer(handler, "test")
    made.seen = seen  # type: ignore[attr-defined]
    made.port = made.listen("127.0.0.1", 0)  # type: ignore[attr-defined]
    yield made
    made.close()


def test_connections_are_kept_and_bodies_counted(server) -> None:  # type: ignore[no-untyped-def]
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for body in (b"abc", b"", b"x" * 100_000):
        connection.request("POST", "/p%20q?a=1&b=%2F", body)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read() == body[::-1]
    assert server.seen[0].path == "/p q" and server.seen[0].query == {"a": "1", "b": "/"}
    connection.request("HEAD", "/")
    assert connection.getresponse().read() == b""


def test_chunked_bodies_and_expect_continue(server) -> None:  # type: ignore[no-untyped-def]
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 100")
        raw.sendall(b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n")
        assert raw.recv(1000).endswith(b"edcba")


def test_a_broken_handler_answers_501_and_nonsense_400(server) -> None:  # type: ignore[no-untyped-def]
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/boom")
    assert connection.getresponse().status == 501
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_close_ends_open_connections(server) -> None:  # type: ignore[no-untyped-def]
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        raw.recv(1000)
        server.close()
        raw.settimeout(2)
        assert raw.recv(10) == b""


def test_the_timeline_runs_things_in_time_and_reports_failures() -> None:
    reports: list[str] = []
    line, ran, done = Timeline(reports.append), [], threading.Event()
    line.after(0.2, lambda: (ran.append("late"), done.set()))
    line.after(0.05, lambda: ran.append("soon"))
    line.after(0, lambda: 1 / 0)
    line.after(0.1, lambda: ran.append("never")).cancel()
    assert done.wait(2)
    assert ran == ["soon", "late"] and "ZeroDivisionError" in reports[0]
    line.close()


def test_idle_costs_nothing(kit: Kit) -> None:
    time.sleep(0.3)
    used = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - used < 0.03


def test_latency_of_the_calls_that_failover_waits_for(kit: Kit) -> None:
    """Not a benchmark: a guard against something that makes each call an order slower."""
    table, db = kit.table(), kit.client("dynamodb")
    key = {"cluster": {"S": "web"}, "item": {"S": "lease"}}
    times = []
    for n in range(60):
        begun = time.perf_counter()
        db.update_item(TableName=table, Key=key, UpdateExpression="SET rev = :n", ExpressionAttributeValues={":n": {"N": str(n)}})
        times.append(time.perf_counter() - begun)
    assert sorted(times)[30] < 0.02


def test_unsigned_garbage_does_not_hurt(kit: Kit) -> None:
    for path in ("/", "/%00", "/favicon.ico"):
        try:
            urllib.request.urlopen(kit.endpoint + path, timeout=5).read()
        except urllib.error.HTTPError as error:
            error.read()
    assert json.load(urllib.request.urlopen(kit.endpoint + "/_localcloud/health"))["run"] == kit.cloud.run
