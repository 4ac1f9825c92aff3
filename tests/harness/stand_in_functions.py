"""Function zips that only say yes, for tests of the harness before and without the real ones.

The configure function's stand-in answers CloudFormation's request, so that a deployment completes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

BOOTSTRAP = """\
#!/usr/bin/env python3
import json, os, urllib.request
api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
while True:
    with urllib.request.urlopen(api + "next") as response:
        request = response.headers["Lambda-Runtime-Aws-Request-Id"]
        event = json.loads(response.read())
    if "ResponseURL" in event:
        answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
        answer |= {"Status": "SUCCESS", "PhysicalResourceId": event.get("PhysicalResourceId", "stand-in")}
        urllib.request.urlopen(urllib.request.Request(event["ResponseURL"], json.dumps(answer).encode(), {"content-type": ""}, method="PUT"))
    answer = json.dumps({"stand_in": True, "event": event}).encode()
    urllib.request.urlopen(urllib.request.Request(api + request + "/response", answer, method="POST"))
"""


def write(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("failover", "watch", "configure"):
        info = zipfile.ZipInfo("bootstrap")
        info.external_attr = 0o755 << 16
        with zipfile.ZipFile(directory / f"{name}.zip", "w") as archive:
            archive.writestr(info, BOOTSTRAP)
    return directory
