"""A client: asks http://ADDRESS/ at a fixed beat, each time over a new connection, and writes down what happened.

    python prober.py --url http://10.99.0.10/ --out answers.jsonl [--every-ms 50] [--timeout-ms 1000]

Standalone (no imports of ours), because it runs inside a client's network namespace. A request that hangs delays no other.
One JSON line per request: {"sent", "done", "ok", "answered_by", "error"}; times are CLOCK_MONOTONIC seconds, which every
process on the machine shares. SIGTERM: no new requests, the outstanding ones end, then exit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from urllib.parse import urlsplit


class Prober:
    def __init__(self, url: str, out, every_s: float, timeout_s: float):
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname, parts.port or 80, parts.path or "/"
        self.out, self.every_s, self.timeout_s = out, every_s, timeout_s
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        requests: set[asyncio.Task] = set()
        due = time.monotonic()
        while not self.stopping.is_set():
            request = asyncio.create_task(self.request())
            requests.add(request)
            request.add_done_callback(requests.discard)
            due += self.every_s
            now = time.monotonic()
            if due < now - self.every_s:
                due = now  # this process was held up: go on from here instead of sending a burst
            try:
                await asyncio.wait_for(self.stopping.wait(), max(0.0, due - now))
            except TimeoutError:
                pass
        await asyncio.gather(*requests)

    async def request(self) -> None:
        sent = time.monotonic()
        answered_by, error = None, None
        try:
            async with asyncio.timeout(self.timeout_s):
                answered_by, error = await self.ask()
        except TimeoutError:
            error = "no answer in time"
        except OSError as problem:
            error = problem.strerror or str(problem)
        line = {"sent": sent, "done": time.monotonic(), "ok": error is None, "answered_by": answered_by, "error": error}
        self.out.write(json.dumps(line) + "\n")

    async def ask(self) -> tuple[str | None, str | None]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(f"GET {self.path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None, "closed without an answer"
        finally:
            writer.transport.abort()  # never waits, also when the other side is gone
        status, *headers = head.decode("latin-1").split("\r\n")
        named = {name.strip().lower(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
        code = status.split(" ", 2)[1]
        return named.get("x-node"), None if code == "200" else f"HTTP {code}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--every-ms", type=float, default=50)
    parser.add_argument("--timeout-ms", type=float, default=1000)
    options = parser.parse_args()
    with open(options.out, "a", buffering=1) as out:
        prober = Prober(options.url, out, options.every_ms / 1000, options.timeout_ms / 1000)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, prober.stopping.set)
        await prober.run()


if __name__ == "__main__":
    asyncio.run(main())
