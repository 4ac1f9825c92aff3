"""The program: the ready line, a clean end, and no function left behind even after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import pytest

from .conftest import REGION, bootstrap_zip, until

TESTS = Path(__file__).parents[2]


def start(*arguments: str) -> tuple[subprocess.Popen[str], dict]:
    process = subprocess.Popen([sys.executable, "-m", "localcloud", *arguments], cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = process.stdout.readline()  # type: ignore[union-attr]
    return process, json.loads(line)


def function_pid(port: int) -> int:
    """Deploys and invokes a function; its process's id."""
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}], "Version": "2012-10-17"}
    make = lambda s: boto3.client(s, region_name=REGION, endpoint_url=f"http://localhost:{port}", aws_access_key_id="t", aws_secret_access_key="t")  # noqa: E731
    role = make("iam").create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    make("lambda").create_function(FunctionName="f", Runtime="provided.al2023", Handler="bootstrap", Role=role, Code={"ZipFile": bootstrap_zip("def handle(e): return os.getpid()")})
    return json.load(make("lambda").invoke(FunctionName="f")["Payload"])


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ready_line_and_a_clean_end(tmp_path: Path) -> None:
    begun = time.monotonic()
    process, ready = start("--run", "t1st")
    assert time.monotonic() - begun < 10
    assert ready == {"port": ready["port"], "run": "t1st", "pid": process.pid, "plane": False}
    assert json.load(urllib.request.urlopen(f"http://localhost:{ready['port']}/_localcloud/health"))["run"] == "t1st"
    pid = function_pid(ready["port"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    until(lambda: not alive(pid))
    import tempfile

    assert not list(Path(tempfile.gettempdir()).glob("lct1st-*")), "its state is removed"


def test_functions_die_with_a_killed_cloud() -> None:
    process, ready = start()
    pid = function_pid(ready["port"])
    process.kill()
    process.wait()
    until(lambda: not alive(pid))


def test_die_with_parent() -> None:
    program = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-m', 'localcloud', '--die-with-parent', '--quiet'], cwd={str(TESTS)!r}, stdout=subprocess.PIPE, text=True); print(p.stdout.readline(), flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    ready = json.loads(parent.stdout.readline())  # type: ignore[union-attr]
    parent.kill()
    parent.wait()
    until(lambda: not alive(ready["pid"]))


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--nonsense"]])
def test_bad_arguments_end_with_2(arguments: list[str]) -> None:
    assert subprocess.run([sys.executable, "-m", "localcloud", *arguments], cwd=TESTS, capture_output=True).returncode == 2


def test_a_taken_port_is_an_error_not_a_hang() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        out = subprocess.run([sys.executable, "-m", "localcloud", "--port", str(taken.getsockname()[1])], cwd=TESTS, capture_output=True, text=True, timeout=20, env=os.environ)
    assert out.returncode != 0 and "Address already in use" in out.stderr
