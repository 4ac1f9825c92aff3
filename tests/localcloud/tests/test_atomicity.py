"""Conditional writes are atomic here, and would not be without the lock: the test that can fail is shown to fail.

Threads with a 50 us switch interval stand in for a busy machine. Plain moto then lets two clients win the same write.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

PROGRAM = textwrap.dedent(
    """
    import sys, threading
    from localcloud.http_server import Request
    from localcloud.cloud import LocalCloud
    from localcloud import frontdoor
    import contextlib, json
    locked, clients, each = sys.argv[1] == "locked", 8, int(sys.argv[2])
    if not locked:
        frontdoor.lock_of = lambda service: contextlib.nullcontext()
    cloud = LocalCloud(quiet=True)
    AUTH = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0"
    def call(action, **body):
        headers = {"authorization": AUTH, "x-amz-target": "DynamoDB_20120810." + action, "content-type": "application/x-amz-json-1.0", "host": "localhost"}
        response = cloud.door.answer(Request("POST", "/", headers, json.dumps(body).encode(), "127.0.0.1"))
        return response.status, json.loads(response.body)
    print(call("CreateTable", TableName="t", BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
               AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}])[0], file=sys.stderr)
    key = {"k": {"S": "row"}}
    call("PutItem", TableName="t", Item={**key, "n": {"N": "0"}})
    won = []
    sys.setswitchinterval(5e-5)
    def client():
        for _ in range(each):
            old = call("GetItem", TableName="t", Key=key, ConsistentRead=True)[1]["Item"]["n"]["N"]
            status, _ = call("UpdateItem", TableName="t", Key=key, UpdateExpression="SET n = :new", ConditionExpression="n = :old",
                             ExpressionAttributeValues={":new": {"N": str(int(old) + 1)}, ":old": {"N": old}})
            if status == 200:
                won.append(int(old) + 1)
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for t in threads: t.start()
    for t in threads: t.join()
    final = int(call("GetItem", TableName="t", Key=key, ConsistentRead=True)[1]["Item"]["n"]["N"])
    sys.setswitchinterval(0.005)
    print(json.dumps({"acknowledged": len(won), "final": final, "twice": len(won) - len(set(won))}), flush=True)
    cloud.close()
    import os; os._exit(0)
    """
)


def run(mode: str, each: int) -> dict[str, int]:
    import json

    out = subprocess.run([sys.executable, "-c", PROGRAM, mode, str(each)], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(out.stdout.strip().splitlines()[-1])


def test_no_update_is_lost_behind_the_lock() -> None:
    seen = run("locked", 25)
    assert seen["acknowledged"] == seen["final"] > 0 and seen["twice"] == 0


def test_negative_control_plain_moto_loses_updates() -> None:
    for _ in range(4):  # a race: nearly always lost on the first try
        seen = run("plain", 40)
        if seen["acknowledged"] > seen["final"]:
            assert seen["twice"] > 0, "two clients were told that they won the same write"
            return
    raise AssertionError(f"plain moto lost nothing ({seen}): the test of the lock proves nothing any more")
