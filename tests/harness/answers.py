"""What a prober wrote down, and what follows from it. Pure."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable


@dataclass(frozen=True)
class Answer:
    sent: float  # CLOCK_MONOTONIC seconds
    done: float
    ok: bool
    answered_by: str | None
    error: str | None


@dataclass(frozen=True)
class Gap:
    """From the last good answer before to the first good one after."""

    start: float
    end: float
    failed: int  # requests sent meanwhile that got no good answer

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Interval:
    """`who` certainly answered from `start` to `end`. A lone answer was given at some moment within `start`..`end`."""

    who: str
    start: float
    end: float
    answers: int


class Tail:
    """A prober's file that is still being written: each line is parsed once, a line in the making waits. Any thread."""

    def __init__(self, path: Path):
        self._path = path
        self._offset = 0
        self._answers: list[Answer] = []
        self._lock = threading.Lock()

    def read(self) -> list[Answer]:
        """In order of sending."""
        with self._lock:
            if self._path.exists():
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    whole = file.read().rpartition(b"\n")[0]
                if whole:
                    self._offset += len(whole) + 1
                    self._answers += [Answer(**json.loads(line)) for line in whole.split(b"\n")]
                    self._answers.sort(key=lambda answer: answer.sent)
            return list(self._answers)


def read(path: Path) -> list[Answer]:
    return Tail(path).read()


def since(answers: Iterable[Answer], start: float, end: float = float("inf")) -> list[Answer]:
    return [answer for answer in answers if start <= answer.sent < end]


def held_up(answers: Iterable[Answer], every_s: float) -> tuple[float, float]:
    """How long a prober that is to ask every so many seconds did not get to ask: in all, and at most at one time. It depends
    on nobody's answers, so this is the machine's doing."""
    sent = [answer.sent for answer in answers]
    late = [max(0.0, later - one - every_s) for one, later in zip(sent, sent[1:])]
    return sum(late), max(late, default=0.0)


def failed(answers: Iterable[Answer]) -> int:
    return sum(1 for answer in answers if not answer.ok)


def count(answers: Iterable[Answer]) -> int:
    return sum(1 for answer in answers if answer.ok)


def longest_gap(answers: list[Answer], start: float | None = None, end: float | None = None) -> Gap | None:
    """The longest time without a good answer within start..end (default: first to last request). Answers count at the
    moment they were received; the time before the first one and after the last one counts too. None without requests."""
    if not answers and (start is None or end is None):
        return None
    start = answers[0].sent if start is None else start
    end = max(answer.done for answer in answers) if end is None else end
    good = sorted(answer.done for answer in answers if answer.ok and start <= answer.done <= end)
    marks = [start, *good, end]
    left, right = max(zip(marks, marks[1:]), key=lambda pair: pair[1] - pair[0])
    missing = sum(1 for answer in answers if not answer.ok and left <= answer.sent <= right)
    return Gap(left, right, missing)


def first_answer(answers: Iterable[Answer], who: str, after: float) -> float | None:
    """When the first good answer of `who` that was asked for after `after` arrived."""
    return min((answer.done for answer in answers if answer.ok and answer.answered_by == who and answer.sent >= after), default=None)


def who_answered(answers: Iterable[Answer]) -> list[Interval]:
    """Runs of good answers by the same node, in order of arrival."""
    runs: list[list[Answer]] = []
    for answer in sorted((one for one in answers if one.ok), key=lambda one: one.done):
        if runs and runs[-1][-1].answered_by == answer.answered_by:
            runs[-1].append(answer)
        else:
            runs.append([answer])
    return [_interval(run) for run in runs]


def serving(answers: Iterable[Answer]) -> list[Interval]:
    """When the one node that these answers come from certainly served: runs of good answers without a failure between."""
    intervals, run = [], []
    for answer in sorted(answers, key=lambda one: one.sent):
        if answer.ok:
            run.append(answer)
        elif run:
            intervals.append(_interval(run))
            run = []
    if run:
        intervals.append(_interval(run))
    return intervals


def _interval(run: list[Answer]) -> Interval:
    # It served when the first answer had arrived, and still when the last one was asked for: certain whatever the
    # network's delays were. One answer alone only says: at some moment in between.
    first, last = min(answer.done for answer in run), max(answer.sent for answer in run)
    who = run[0].answered_by or "?"
    if last <= first:
        return Interval(who, min(answer.sent for answer in run), max(answer.done for answer in run), len(run))
    return Interval(who, first, last, len(run))
