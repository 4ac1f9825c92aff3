"""A log line at WARN or ERROR fails a story unless it is expected; colours do not hide it."""

from datetime import datetime, timezone

import pytest

from harness.answers import Answer
from harness.answers import held_up as held_up_of
from harness.judges import EXPECTED_IN_LOGS, assert_quiet_logs, held_up

QUIET = "2026-11-22T18:07:15.639387Z  INFO sidecar::core: standby -> activating: an ERROR in the text is none\n"
AWAY = "2026-11-22T18:07:15.639387Z  WARN sidecar::core: cannot read the lease row: read_row (dynamodb:GetItem) on table t: no answer\n"
COLOURED = "\x1b[2m2026-11-22T18:07:15Z\x1b[0m \x1b[31mERROR\x1b[0m \x1b[2msidecar::core\x1b[0m: rebooting this machine\n"


def test_expected_lines_pass_and_others_do_not():
    assert assert_quiet_logs({"a": QUIET}) == []
    assert len(assert_quiet_logs({"a": QUIET + AWAY}, EXPECTED_IN_LOGS["DynamoDB away"])) == 1
    for surprise in (AWAY, COLOURED):
        with pytest.raises(AssertionError, match="1 lines"):
            assert_quiet_logs({"a": QUIET, "b": surprise})


LATE = "2026-11-22T18:07:15.500000Z  WARN sidecar::core: no answer to a write of the lease row: renew (dynamodb:UpdateItem) on table t: no answer within 200 ms\n"


def test_a_late_answer_is_forgiven_only_where_the_cloud_measured_that_it_was_late():
    end = datetime(2026, 11, 22, 18, 7, 15, 500_000, tzinfo=timezone.utc).timestamp()
    stall = {"what": "stall", "start": end - 0.150, "end": end - 0.020}
    assert len(assert_quiet_logs({"a": LATE}, lateness=[stall])) == 1
    earlier = {"what": "stall", "start": end - 2.0, "end": end - 0.210}
    short = {"what": "dynamodb:UpdateItem", "start": end - 0.090, "end": end - 0.030}
    twice = [short, dict(short, what="stall")]  # the same 60 ms, seen twice
    for lateness in ([], [earlier], twice):
        with pytest.raises(AssertionError, match="1 lines"):
            assert_quiet_logs({"a": LATE}, lateness=lateness)


def test_the_machine_held_programs_up_only_where_two_probers_say_so():
    def sent(*times):
        return held_up_of([Answer(time, time, True, "a", None) for time in times], 0.05)

    steady, late = sent(0.0, 0.05, 0.10, 0.15), sent(0.0, 0.05, 0.40, 0.45)
    assert steady == (0.0, 0.0) or max(steady) < 1e-9
    assert late == pytest.approx((0.30, 0.30))
    assert held_up([steady, late, late], 10.0) is not None, "300 ms at one time"
    assert held_up([steady, steady, late], 10.0) is None, "one prober alone may be slow by itself"
    often = sent(*(0.07 * beat for beat in range(20)))
    assert held_up([often, often, steady], 1.4) is not None, "20 ms at each beat of 50"
    assert held_up([steady, steady, steady], 1.4) is None
