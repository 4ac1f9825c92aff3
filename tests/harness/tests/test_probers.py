"""A prober that died or was silent fails a story: what nobody asked for, nobody saw."""

import json
import subprocess
import sys
import time

import pytest

from harness.answers import Tail
from harness.clients import Client
from harness.judges import Probed, assert_probed

STEADY = Probed("client", True, 190, 0.05)


def test_probers_that_asked_all_the_time_pass():
    assert_probed([STEADY, Probed("pinned-a", True, 161, 0.05)], 10.0)
    assert_probed([Probed("client", True, 1, 0.05)], 0.1)


@pytest.mark.parametrize(
    ("prober", "told"),
    [(Probed("pinned-a", False, 200, 0.05), "pinned-a has died"), (Probed("pinned-b", True, 157, 0.05), "pinned-b sent 157 requests of 200"),
     (Probed("pinned-b", True, 0, 0.05), "pinned-b sent 0 requests of 200")],
    ids=["dead", "too few", "silent"],
)  # fmt: skip
def test_a_dead_or_silent_one_fails(prober, told):
    with pytest.raises(AssertionError, match=told):
        assert_probed([STEADY, prober], 10.0)


def test_a_client_knows_whether_its_prober_lives_and_what_it_sent(tmp_path):
    client = Client.__new__(Client)  # without a cloud: only its process and its file
    out = tmp_path / "client.jsonl"
    sent = [{"sent": at, "done": at + 0.01, "ok": True, "answered_by": "a", "error": None} for at in (1.0, 2.0, 2.5, 3.0)]
    out.write_text("".join(json.dumps(one) + "\n" for one in sent))
    client.name, client._tail, client._every_ms = "client", Tail(out), 50
    client._process = None
    assert client.probed(2.0, 3.0) == Probed("client", False, 2, 0.05)
    client._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert client.probed(2.0, 3.0).alive
    finally:
        client._process.kill()
        client._process.wait()
    assert not client.probed(2.0, time.monotonic()).alive
