"""PostgreSQL on a replicated volume: its device, ext4 on that, and the server in it, each started by the daemon.

The device is nbdfuse's and a loop device, as on any kernel without an NBD client; it is no way to run a database.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from glob import glob
from pathlib import Path

from .paths import BINARY

VOLUME_BYTES = 400 << 20

NODE_TOML = """
[volumes]
metadata = "{home}/volume.meta"

[[volume]]
name = "data"
backing = "{home}/volume.img"
socket = "{home}/run/data.sock"
device = "data"

[[resource]]
name = "data"
kind = "mount"
source = "{home}/data"
target = "{home}/mnt"
fstype = "ext4"
options = ["noatime"]
make_filesystem = true

[[resource]]
name = "postgres"
kind = "script"
start = ["{home}/postgres-start"]
stop = ["{home}/postgres-stop"]
start_limit_ms = 60000
stop_limit_ms = 20000
"""

START = """\
#!/bin/sh
set -eu
cd {home}
if ! [ -d mnt/pg ]; then
    mkdir mnt/pg
    chown postgres mnt/pg
    runuser -u postgres -- {bin}/initdb -D mnt/pg -A trust --no-sync --locale=C.UTF-8 >/dev/null
    echo "host all all 0.0.0.0/0 trust" >> mnt/pg/pg_hba.conf
    sync -f mnt
fi
# Names a process of another machine: this node has the volume to itself, or the mount would have failed.
rm -f mnt/pg/postmaster.pid
exec runuser -u postgres -- {bin}/pg_ctl -D {home}/mnt/pg -w -t 50 -l {home}/postgres.log \\
    -o "-c listen_addresses={virtual_ip} -c unix_socket_directories='' -c shared_buffers=32MB -c max_connections=20" start
"""

STOP = """\
#!/bin/sh
[ -e {home}/mnt/pg/postmaster.pid ] || exit 0
exec runuser -u postgres -- {bin}/pg_ctl -D {home}/mnt/pg -m fast -w stop
"""


def binaries() -> Path:
    """Where Debian's package keeps the server's programs."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/postgres"))
    assert found, "PostgreSQL is missing: make setup"
    return Path(found[-1]).parent


def write(home: Path, virtual_ip: str) -> None:
    """A node's scripts, and its replica: blank."""
    for name, text in (("postgres-start", START), ("postgres-stop", STOP)):
        (home / name).write_text(text.format(home=home, bin=binaries(), virtual_ip=virtual_ip))
        (home / name).chmod(0o755)
    # PostgreSQL's own user goes in and out.
    for folder in (home, *home.parents):
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(folder.stat().st_mode | 0o055)
    (home / "postgres.log").touch()
    (home / "postgres.log").chmod(0o666)
    make_blank(home)


def make_blank(home: Path) -> None:
    """A new disk, and a replica of nothing on it."""
    (home / "volume.img").unlink(missing_ok=True)
    with (home / "volume.img").open("wb") as file:
        file.truncate(VOLUME_BYTES)
    (home / "volume.meta").unlink(missing_ok=True)
    subprocess.run([BINARY, "volume", "create", "--backing", home / "volume.img", "--metadata", home / "volume.meta"], check=True, capture_output=True)


class Writer:
    """A client that inserts one number after the other, each in a transaction of its own, and connects anew when it must."""

    def __init__(self, namespace: str, virtual_ip: str):
        self._psql = ["nsenter", f"--net=/run/netns/{namespace}", "--", "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", virtual_ip, "-U", "postgres", "-d", "postgres"]
        self._env = {**os.environ, "PGCONNECT_TIMEOUT": "1"}
        self.asked = 0
        self.acknowledged: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def query(self, sql: str, limit_s: float = 30) -> str:
        return subprocess.run([*self._psql, "-At", "-c", sql], env=self._env, capture_output=True, text=True, timeout=limit_s, check=True).stdout

    def start(self) -> Writer:
        self.query("CREATE TABLE IF NOT EXISTS told (number bigint PRIMARY KEY)")
        # Another writer may have been there before.
        self.asked = int(self.query("SELECT coalesce(max(number), 0) FROM told"))
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            # `-q` is silent; the echo comes only after the insert before it was committed.
            client = subprocess.Popen([*self._psql], env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
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

    def lost(self) -> set[int]:
        """Acknowledged, and not there. Must be empty."""
        there = {int(line) for line in self.query("SELECT number FROM told").split()}
        return self.acknowledged - there
