"""The judges find what they are for, and only that."""

import json

import pytest

from harness import answers
from harness.answers import Answer, Tail, longest_gap, read, serving, who_answered
from harness.judges import Leak, assert_only_functions_changed_network, assert_single_service


def ok(who, sent, took=0.001):
    return Answer(sent, sent + took, True, who, None)


def lost(sent, took=1.0):
    return Answer(sent, sent + took, False, None, "no answer in time")


def stream(who, start, end, every=0.05):
    return [ok(who, start + number * every) for number in range(round((end - start) / every) + 1)]


def test_the_longest_gap_is_from_good_answer_to_good_answer():
    seen = stream("a", 0.0, 1.0) + [lost(1.05), lost(1.1)] + stream("b", 3.0, 4.0)
    gap = longest_gap(seen)
    assert (round(gap.start, 3), round(gap.end, 3), gap.failed) == (1.001, 3.001, 2)
    assert answers.failed(seen) == 2 and answers.count(seen) == 42


def test_a_service_that_never_came_back_is_a_gap_too():
    assert longest_gap(stream("a", 0, 1) + [lost(1.05), lost(5.0)]).seconds == pytest.approx(5, abs=0.01)
    assert longest_gap([lost(0), lost(1)]).seconds == 2
    assert longest_gap([]) is None


def test_who_answered():
    seen = who_answered(stream("a", 0, 1) + stream("b", 3, 4) + stream("a", 5, 6))
    assert [(one.who, round(one.start), round(one.end)) for one in seen] == [("a", 0, 1), ("b", 3, 4), ("a", 5, 6)]


def test_a_clean_takeover_passes():
    times = assert_single_service({"a": stream("a", 0, 1) + [lost(1.05)], "b": [lost(0), lost(0.5)] + stream("b", 1.0015, 2)})
    assert [one.who for one in times["b"]] == ["b"]


def test_dual_service_is_found():
    with pytest.raises(AssertionError, match="two nodes served at once: a .* and b .* for 1[89]\\d ms"):
        assert_single_service({"a": stream("a", 0, 1), "b": stream("b", 0.8, 2)})


def test_one_answer_of_the_old_node_in_the_midst_of_the_new_one_is_found_unless_it_may_leak():
    pinned = {"a": stream("a", 0, 1) + [lost(1.05), ok("a", 3)], "b": [*stream("b", 2, 4)]}
    with pytest.raises(AssertionError, match="a .1 answers"):
        assert_single_service(pinned)
    assert_single_service(pinned, [Leak("a", 2.9, 3.1)])
    with pytest.raises(AssertionError):
        assert_single_service(pinned, [Leak("b", 2.9, 3.1)])


def test_an_answer_that_took_long_proves_nothing():
    assert_single_service({"a": stream("a", 0, 1) + [lost(1.05), ok("a", 1.1, took=0.9)], "b": [lost(1.1)] + stream("b", 1.5, 3)})


def test_a_prober_that_reaches_the_wrong_node_is_no_judge():
    with pytest.raises(AssertionError, match="pinned to a was answered by"):
        assert_single_service({"a": stream("b", 0, 1), "b": []})


def test_a_failure_in_between_ends_the_certain_time():
    assert [(one.start, one.end) for one in serving(stream("a", 0, 0.1) + [lost(0.12, 0.01)] + stream("a", 0.2, 0.3))] == [(0.001, 0.1), (0.201, pytest.approx(0.3))]


def test_a_line_being_written_is_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(ok("a", 2).__dict__) + "\n" + json.dumps(ok("a", 1).__dict__) + "\n" + '{"sent": 3, "do')
    tail = Tail(path)
    assert [one.sent for one in tail.read()] == [1, 2] == [one.sent for one in read(path)]
    with path.open("a") as file:
        file.write('ne": 3.1, "ok": false, "answered_by": null, "error": "x"}\n')
    assert [one.sent for one in tail.read()] == [1, 2, 3]


def entry(action, caller, applied=True):
    return {"seq": 1, "service": "ec2", "action": action, "caller": caller, "applied": applied}


def test_only_functions_may_change_the_network():
    function = {"kind": "role", "role": "x", "session": "demo-failover", "function": "demo-failover", "environment": "1"}
    node = {"kind": "role", "role": "demo-web-a", "session": "i-1", "instance": "i-1"}
    audit = [entry("ReplaceRoute", function), entry("ReplaceRoute", node, applied=False), entry("UpdateItem", node)]
    assert len(assert_only_functions_changed_network(audit, "demo")) == 1
    for caller in (node, {"kind": "operator"}, {**function, "function": "other-failover"}):
        with pytest.raises(AssertionError, match="ec2:ReplaceRoute by"):
            assert_only_functions_changed_network([entry("ReplaceRoute", caller)], "demo")
