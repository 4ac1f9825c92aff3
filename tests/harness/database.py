"""Who uses a database that fails over: the server's own programs as its clients, and what must be true of it afterwards.

Two kinds of load at once. A writer commits one number after the other and knows exactly which of them it was told are there.
pgbench does its bank's transactions; what it was told is counted, and the bank's sums show whether any was half done.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from . import postgres

SCALE = 1  # of pgbench: 100,000 accounts, about 20 MB
CLIENTS = 4
TURN_S = 2  # pgbench is asked for so long at a time: it tells what it did only at the end
PROCESSED = re.compile(r"number of transactions actually processed: (\d+)")
QUIET_LIMIT_S = 60  # the server writes now and then by itself
# A server whose machine has died says nothing: who does not ask whether it lives waits for hours.
PATIENCE = "connect_timeout=2 tcp_user_timeout=3000 keepalives_idle=1 keepalives_interval=1 keepalives_count=3"


class Server:
    """The database behind the virtual address, for programs that run on the client's host."""

    def __init__(self, namespace: str, virtual_ip: str):
        self._inside = ["nsenter", f"--net=/run/netns/{namespace}", "--"]
        self.host = virtual_ip
        self._where = f"host={virtual_ip} user=postgres dbname=postgres {PATIENCE}"

    def psql(self, *options: str) -> list[str]:
        return [*self._inside, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, self._where]

    def program(self, name: str, *options: str) -> list[str]:
        """One that comes with the server, from the same release."""
        return [*self._inside, str(postgres.binaries() / name), *options]

    @property
    def where(self) -> str:
        """A connection string."""
        return self._where

    def query(self, sql: str, limit_s: float = 30) -> str:
        return subprocess.run(self.psql("-At", "-c", sql), capture_output=True, text=True, timeout=limit_s, check=True).stdout

    def answers(self) -> bool:
        try:
            return self.query("SELECT 1", 10) == "1\n"
        except subprocess.SubprocessError:
            return False

    def wait(self, limit_s: float = 60) -> None:
        until = time.monotonic() + limit_s
        while not self.answers():
            assert time.monotonic() < until, f"the server does not answer within {limit_s} s"
            time.sleep(0.1)


class Writer:
    """A client that inserts one number after the other, each in a transaction of its own, and connects anew when it must."""

    def __init__(self, server: Server):
        self.server = server
        self.asked = 0
        self.acknowledged: set[int] = set()
        self.told_at: list[float] = []  # CLOCK_MONOTONIC, in order
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Writer:
        self.server.query("CREATE TABLE IF NOT EXISTS told (number bigint PRIMARY KEY)")
        # Another writer may have been there before.
        self.asked = int(self.server.query("SELECT coalesce(max(number), 0) FROM told"))
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            # `-q` is silent; the echo comes only after the insert before it was committed.
            client = subprocess.Popen(self.server.psql(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
            assert client.stdin and client.stdout
            hang = None
            try:
                while not self._stop.is_set():
                    self.asked += 1
                    # A server that was cut off answers nobody; a real client has a time-out, too.
                    hang = threading.Timer(5, client.kill)
                    hang.start()
                    client.stdin.write(f"INSERT INTO told VALUES ({self.asked});\n\\echo done {self.asked}\n")
                    answer = client.stdout.readline()
                    hang.cancel()
                    if answer != f"done {self.asked}\n":
                        break
                    self.acknowledged.add(self.asked)
                    self.told_at.append(time.monotonic())
            except (BrokenPipeError, OSError):
                pass
            finally:
                if hang:
                    hang.cancel()
                client.kill()
                client.wait()
                client.stdout.close()
                with contextlib.suppress(BrokenPipeError):  # what it had not read is of no interest
                    client.stdin.close()
            self._stop.wait(0.1)

    def gap(self, since: float) -> float:
        """The longest time without a commit that began after `since`, up to now; seconds."""
        times = [since, *(one for one in self.told_at if one >= since), time.monotonic()]
        return max(later - one for one, later in pairwise(times))

    def lost(self) -> set[int]:
        """Acknowledged, and not there. Must be empty."""
        there = {int(line) for line in self.server.query("SELECT number FROM told").split()}
        return self.acknowledged - there


class Bank:
    """pgbench, turn after turn. Each turn's own count says how many transactions were acknowledged."""

    def __init__(self, server: Server):
        self.server = server
        self.acknowledged = 0
        self.turns = 0
        self.broken_turns = 0  # the server was lost
        self._before = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Bank:
        if self.server.query("SELECT to_regclass('pgbench_history') IS NULL") == "t\n":
            subprocess.run(self.server.program("pgbench", "-i", "-q", "-s", str(SCALE), self.server.where), check=True, capture_output=True, timeout=120)
        self._before = self._history()
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        command = self.server.program("pgbench", "-n", "-c", str(CLIENTS), "-T", str(TURN_S), self.server.where)
        while not self._stop.is_set():
            turn = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            try:
                said = turn.communicate(timeout=TURN_S + 20)[0]
            except subprocess.TimeoutExpired:  # what it was told is not known then, and not counted
                turn.kill()
                said = turn.communicate()[0]
            found = PROCESSED.search(said)
            self.acknowledged += int(found[1]) if found else 0
            self.turns += 1
            self.broken_turns += turn.returncode != 0
            if turn.returncode != 0:
                self._stop.wait(0.2)

    def _history(self) -> int:
        return int(self.server.query("SELECT count(*) FROM pgbench_history"))

    def problems(self) -> list[str]:
        """What is wrong with the bank; nothing if each acknowledged transaction is there, and none is there in part."""
        found = []
        there, doubt = self._history() - self._before, CLIENTS * self.turns
        if not self.acknowledged <= there <= self.acknowledged + doubt:
            found.append(f"pgbench was told of {self.acknowledged} transactions, {doubt} at most are in doubt, {there} are there")
        sums = self.server.query("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), "
                                 "(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)").strip()  # fmt: skip
        if len(set(sums.split("|"))) != 1:
            found.append(f"the bank's sums differ (accounts, branches, tellers, history): {sums}")
        return found


class Users:
    """Both kinds of load at once, and what they were told held against what is there."""

    def __init__(self, server: Server):
        self.server, self.writer, self.bank = server, Writer(server), Bank(server)

    def start(self) -> Users:
        self.server.wait()
        self.writer.start()
        self.bank.start()
        return self

    def stop(self) -> None:
        self.writer.stop()
        self.bank.stop()

    @property
    def acknowledged(self) -> int:
        """Transactions; pgbench's are counted at the end of each of its turns."""
        return len(self.writer.acknowledged) + self.bank.acknowledged

    def wait_for_more(self, count: int, limit_s: float = 60) -> None:
        """Until so many more numbers were acknowledged."""
        before, until = len(self.writer.acknowledged), time.monotonic() + limit_s
        while len(self.writer.acknowledged) < before + count:
            assert time.monotonic() < until, f"{len(self.writer.acknowledged) - before} of {count} transactions within {limit_s} s"
            time.sleep(0.1)

    def verdict(self, images: list[Path]) -> Verdict:
        """Once the load has stopped and all replicas are in sync."""
        lost = sorted(self.writer.lost())
        problems = [f"{len(lost)} ACKNOWLEDGED TRANSACTIONS ARE LOST, the first is number {lost[0]}"] if lost else []
        return Verdict(len(lost), problems + self.bank.problems() + malformed(self.server) + differing(images))


@dataclass(frozen=True)
class Verdict:
    lost: int  # acknowledged and not there
    problems: list[str]  # all that is wrong, that among it


def malformed(server: Server) -> list[str]:
    """What pg_amcheck finds in tables and indexes."""
    command = server.program("pg_amcheck", "--install-missing", "--heapallindexed", "-h", server.host, "-U", "postgres", "-d", "postgres")  # no connection string
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return [] if done.returncode == 0 else [f"pg_amcheck ends with {done.returncode}: {(done.stdout + done.stderr).strip()[:2000]}"]


def differing(images: list[Path], limit_s: float = QUIET_LIMIT_S) -> list[str]:
    """Once nobody writes, the replicas are equal byte for byte. The last write may still be on its way to one of them."""
    until = time.monotonic() + limit_s
    while not all(filecmp.cmp(images[0], one, shallow=False) for one in images[1:]):
        if time.monotonic() > until:
            return [f"the replicas still differ after {limit_s} s in which nobody wrote"]
        time.sleep(0.5)
    return []
