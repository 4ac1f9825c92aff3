"""A log line at WARN or ERROR fails a story unless it is expected; colours do not hide it."""

import pytest

from harness.judges import EXPECTED_IN_LOGS, assert_quiet_logs

QUIET = "2026-11-22T18:07:15.639387Z  INFO sidecar::core: standby -> activating: an ERROR in the text is none\n"
AWAY = "2026-11-22T18:07:15.639387Z  WARN sidecar::core: cannot read the lease row: read_row (dynamodb:GetItem) on table t: no answer\n"
COLOURED = "\x1b[2m2026-11-22T18:07:15Z\x1b[0m \x1b[31mERROR\x1b[0m \x1b[2msidecar::core\x1b[0m: rebooting this machine\n"


def test_expected_lines_pass_and_others_do_not():
    assert assert_quiet_logs({"a": QUIET}) == []
    assert len(assert_quiet_logs({"a": QUIET + AWAY}, EXPECTED_IN_LOGS["DynamoDB away"])) == 1
    for surprise in (AWAY, COLOURED):
        with pytest.raises(AssertionError, match="1 lines"):
            assert_quiet_logs({"a": QUIET, "b": surprise})
