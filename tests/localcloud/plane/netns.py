"""Network namespaces and what is done inside them, by iproute2 and nft. Every error names the command and its text."""

from __future__ import annotations

import subprocess
from pathlib import Path

NETNS_DIR = Path("/run/netns")
COMMAND_LIMIT_S = 20  # these commands take milliseconds; a longer one hangs


class PlaneError(Exception):
    """Something in the packet plane failed: what, where, what to do."""


def run(command: list[str], stdin: str | None = None) -> str:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=COMMAND_LIMIT_S)
    except FileNotFoundError as error:
        raise PlaneError(f"{command[0]} is not installed; install the packages of tests/apt-packages.txt") from error
    except subprocess.TimeoutExpired as error:
        raise PlaneError(f"`{' '.join(command)}` did not end within {COMMAND_LIMIT_S} s") from error
    if done.returncode != 0:
        shown = f"\n{stdin}" if stdin else ""
        raise PlaneError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}{shown}")
    return done.stdout


def path(name: str) -> Path:
    return NETNS_DIR / name


def create(name: str) -> None:
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def delete(name: str) -> None:
    if path(name).exists():
        run(["ip", "netns", "del", name])


def named(prefix: str) -> list[str]:
    if not NETNS_DIR.is_dir():
        return []
    return sorted(entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(prefix))


def processes(name: str) -> list[int]:
    return [int(pid) for pid in run(["ip", "netns", "pids", name]).split()]


def enter(name: str, command: list[str]) -> list[str]:
    """The command line that runs `command` inside. Not `ip netns exec`: that one hides /sys/fs/cgroup behind a new /sys."""
    return ["nsenter", f"--net={path(name)}", "--", *command]


def ip_batch(name: str, lines: list[str]) -> None:
    if lines:
        run(["ip", "-n", name, "-batch", "-"], "\n".join(lines) + "\n")


def nft(name: str, ruleset: str) -> None:
    run(enter(name, ["nft", "-f", "-"]), ruleset)


def set_sysctls(name: str, values: dict[str, str]) -> None:
    script = "; ".join(f"echo {value} > /proc/sys/{key.replace('.', '/')}" for key, value in values.items())
    run(enter(name, ["sh", "-ec", script]))
