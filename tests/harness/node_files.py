"""What stands on a node's disk: node.toml, and Debian's nginx as the workload with its start and stop scripts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

PEER_PORT = 7400

NGINX_CONF = """\
# Answers with the node's name, so that a client can tell who served it.
daemon on;
user root;
worker_processes 1;
pid {home}/nginx/nginx.pid;
error_log {home}/nginx/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {home}/nginx/body;
    proxy_temp_path {home}/nginx/proxy;
    fastcgi_temp_path {home}/nginx/fastcgi;
    scgi_temp_path {home}/nginx/scgi;
    uwsgi_temp_path {home}/nginx/uwsgi;
    server {{
        listen 80;
        default_type text/plain;
        add_header X-Node {node} always;
        location / {{ return 200 "{node}\\n"; }}
        location /health {{ return 200 "ok\\n"; }}
    }}
}}
"""

START = """\
#!/bin/sh
# Debian's nginx, in the foreground until it listens, then a daemon in the workload's cgroup.
exec /usr/sbin/nginx -p {home}/nginx/ -c {home}/nginx/nginx.conf
"""

STOP = """\
#!/bin/sh
# Succeeds when nothing runs, too.
pid=$(cat {home}/nginx/nginx.pid 2>/dev/null) || exit 0
# After a kill -9 the file is stale, and its number may be somebody else's by now.
grep -qs {home}/nginx "/proc/$pid/cmdline" || exit 0
kill -TERM "$pid" 2>/dev/null || exit 0
# Not `kill -0`: it succeeds on a zombie, and who reaps it may take a second.
while grep -qs {home}/nginx "/proc/$pid/cmdline"; do sleep 0.01; done
"""

# The fence of a test's node: what sysrq is to a real one.
FENCE = """\
#!/bin/sh
echo reboot > "$LC_POWER"
"""

# In the place of the daemon, for tests of the harness itself: always active.
STAND_IN = """\
#!/bin/sh
ip addr replace {virtual_ip}/32 dev lo
{home}/start
trap '{home}/stop; ip addr del {virtual_ip}/32 dev lo; exit 0' TERM
while :; do sleep 0.05; done
"""


@dataclass(frozen=True)
class NodeFiles:
    home: Path

    @property
    def config(self) -> Path:
        return self.home / "node.toml"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def admin_socket(self) -> Path:
        return self.home / "run" / "node.sock"

    @property
    def stand_in(self) -> Path:
        return self.home / "stand-in"


def write(home: Path, cluster: str, node: str, deployment: str, virtual_ip: str, region: str, more: str = "") -> NodeFiles:
    """`more`: further TOML at the end (tables); `{home}` in it is the node's folder."""
    files = NodeFiles(home)
    for directory in (home / "nginx", files.state, files.admin_socket.parent):
        directory.mkdir(parents=True, exist_ok=True)
    os.chmod(files.state, 0o700)
    (home / "nginx" / "nginx.conf").write_text(NGINX_CONF.format(home=home, node=node))
    for name, text in (("start", START), ("stop", STOP), ("fence", FENCE), ("stand-in", STAND_IN)):
        (home / name).write_text(text.format(home=home, virtual_ip=virtual_ip) if name != "fence" else text)
        (home / name).chmod(0o755)

    def quoted(value: object) -> str:
        return json.dumps(str(value))  # TOML's basic strings are JSON's for what stands here

    files.config.write_text(f"""\
cluster = {quoted(cluster)}
node = {quoted(node)}
table = {quoted(deployment)}
bus = {quoted(deployment)}
region = {quoted(region)}
state_dir = {quoted(files.state)}

[peer]
listen = "0.0.0.0:{PEER_PORT}"

[address]
interface = "lo"

[metrics]
listen = "127.0.0.1:9400"

[admin]
socket = {quoted(files.admin_socket)}

[fence]
command = [{quoted(home / "fence")}]

[[resource]]
name = "nginx"
kind = "script"
start = [{quoted(home / "start")}]
stop = [{quoted(home / "stop")}]
http = "http://{virtual_ip}/health"
{more.replace("{home}", str(home))}""")
    return files
