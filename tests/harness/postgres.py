"""PostgreSQL on a replicated volume: its device, ext4 on that, and the server in it, each started by the daemon.

The device is nbdfuse's and a loop device, as on any kernel without an NBD client; it is no way to run a database.
"""

from __future__ import annotations

from glob import glob
from pathlib import Path

from . import volumes
from .cloud import Cloud
from .cluster import Cluster
from .network import Network

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


def cluster(cloud: Cloud, network: Network, deployment: str, name: str, disks: dict[str, Path] | None = None) -> Cluster:
    """Nodes with the server, blank, on which nothing runs yet. `disks`: by node, what its replica lies on; else a file."""
    made = Cluster(cloud, network, deployment, name=name, node_toml=NODE_TOML, forget_data=make_blank)
    for node, files in made.files.items():
        if disks:
            (files.home / "volume.img").symlink_to(disks[node])
        write(files.home, network.virtual_ip)
    return made


def images(nodes: Cluster) -> list[Path]:
    """The replicas' disks."""
    return [files.home / "volume.img" for files in nodes.files.values()]


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
    volumes.make_blank(home, VOLUME_BYTES)
