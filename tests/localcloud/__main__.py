"""python -m localcloud [--port N] [--plane] ...: prints one JSON line when ready, runs until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG = 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m localcloud", description="An AWS for leasehold's tests and demo, on this machine.")
    parser.add_argument("--port", type=int, default=0, help="of the API on 127.0.0.1 (default: a free one)")
    parser.add_argument("--region", default="ap-northeast-1", help="Region for control requests that name none (default: %(default)s)")
    parser.add_argument("--run", help="run id in names of namespaces (default: random, 4 characters)")
    parser.add_argument("--plane", action="store_true", help="with the packet plane: network namespaces, machines, IMDS (needs root)")
    parser.add_argument("--state-dir", type=Path, help="keep function code and logs here (default: a private directory, removed at exit)")
    parser.add_argument("--time-scale", type=float, default=1.0, help="60: rate(1 minute) fires each second (default: %(default)s)")
    parser.add_argument("--die-with-parent", action="store_true", help="exit when the process that started this one is gone")
    parser.add_argument("--trace", action="store_true", help="log every API call")
    parser.add_argument("--quiet", action="store_true", help="no log lines on stderr")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.die_with_parent:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone before prctl took effect
            return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())

    from .cloud import LocalCloud  # moto takes a second to import; the signal handlers are there before

    cloud = LocalCloud(port=options.port, run=options.run, state_dir=options.state_dir, region=options.region, quiet=options.quiet)
    cloud.door.trace = options.trace
    try:
        cloud.knobs.set({"time_scale": options.time_scale})
        if options.plane:
            cloud.attach(importlib.import_module("localcloud.plane").create(cloud))
        print(json.dumps({"port": cloud.port, "run": cloud.run, "pid": os.getpid(), "plane": options.plane}), flush=True)
        stop.wait()
    finally:
        cloud.close()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of open connections are daemons; nothing is left to flush
