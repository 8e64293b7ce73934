"""The proxies that are compared: their configuration, and how each is started.

Rules: all do the same job as well as they can. Each balances over the origin's two ports, keeps upstream connections
alive, sets X-Forwarded-For, -Proto, -Host and X-Request-ID, passes WebSocket upgrades, streams bodies both ways
without touching a disk, speaks TLS 1.2 and 1.3 on a second port with the same cipher suites and (nginx, Kairos) one
ticket to come back with, and logs every request unless logging is off for all: nginx and Kairos into a file in batches,
HAProxy line by line on its standard output, which cost it no more than UDP or its ring buffer over TCP.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.origin import Origin
from bench.processes import LOOPBACK, free_port, program, running, wait_until_serving
from kairos.config.certificates import self_signed
from kairos.config.listeners import CIPHERS, CIPHERSUITES

CLIENTS = 11_000
"""Connections a proxy must be able to hold; above what the idle case opens."""
IDLE_S = 600
FOREVER = 10_000_000
PROGRAMS = {"nginx": "nginx", "haproxy": "haproxy"}


@dataclass(frozen=True, slots=True)
class Setup:
    """What a configuration is made from."""

    port: int
    origin: Origin
    home: Path
    """Folder for its configuration, logs and other files."""
    workers: int
    logging: bool
    tls_port: int = field(default_factory=free_port)

    @property
    def certificate(self) -> Path:
        """The same kind for all: ECDSA on P-256, with its key in one file; made when first asked for."""
        return self_signed(self.home, time.time())


@dataclass(frozen=True, slots=True)
class Peer:
    """A running proxy."""

    name: str
    pid: int
    port: int
    tls_port: int
    log: Path
    """What the program itself has written to its terminal."""


def nginx_config(setup: Setup) -> str:
    servers = "\n".join(f"server {LOOPBACK}:{port};" for port in setup.origin.ports)
    log = f"{setup.home}/access.log combined buffer=64k flush=1s" if setup.logging else "off"
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
daemon off;
worker_processes {setup.workers};
worker_rlimit_nofile {CLIENTS + 4096};
pid {setup.home}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections {CLIENTS + 2048}; multi_accept on; }}
http {{
  access_log {log};
  keepalive_requests {FOREVER};
  keepalive_timeout {IDLE_S}s;
  client_max_body_size 0;
  client_body_buffer_size 128k;
  client_body_temp_path {setup.home}/body;
  proxy_temp_path {setup.home}/proxy;
  upstream origin {{
    {servers}
    keepalive 256;
    keepalive_requests {FOREVER};
    keepalive_timeout {IDLE_S}s;
  }}
  upstream echo {{ server {LOOPBACK}:{setup.origin.websocket_port}; }}
  server {{
    listen {LOOPBACK}:{setup.port} backlog=4096 reuseport;
    listen {LOOPBACK}:{setup.tls_port} ssl backlog=4096 reuseport;
    ssl_certificate {setup.certificate};
    ssl_certificate_key {setup.certificate};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    ssl_ciphers {CIPHERS};
    ssl_conf_command Ciphersuites {CIPHERSUITES};
    ssl_conf_command NumTickets 1;
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header Connection "";
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header X-Request-ID $request_id;
    proxy_buffers 16 32k;
    proxy_busy_buffers_size 128k;
    proxy_max_temp_file_size 0;
    proxy_request_buffering off;
    location / {{ proxy_pass http://origin; }}
    location /ws {{
      proxy_pass http://echo;
      proxy_set_header Connection "upgrade";
      proxy_set_header Upgrade $http_upgrade;
      proxy_buffering off;
    }}
  }}
}}
"""


_HAPROXY_TLS = f"ssl-min-ver TLSv1.2 ciphers {CIPHERS} ciphersuites {CIPHERSUITES} alpn http/1.1"


def haproxy_config(setup: Setup) -> str:
    servers = "\n".join(f"  server o{port} {LOOPBACK}:{port}" for port in setup.origin.ports)
    log = "log stdout format raw local0 info" if setup.logging else ""
    use_log = "log global\n  option httplog" if setup.logging else ""
    return f"""
global
  {log}
  nbthread {setup.workers}
  maxconn {CLIENTS}
  no strict-limits
  tune.bufsize 65536
defaults
  mode http
  {use_log}
  option forwardfor
  option http-keep-alive
  http-reuse always
  timeout connect 3s
  timeout client {IDLE_S}s
  timeout server {IDLE_S}s
  timeout tunnel {IDLE_S}s
  timeout http-keep-alive {IDLE_S}s
  unique-id-format %[uuid()]
  unique-id-header X-Request-ID
frontend gateway
  bind {LOOPBACK}:{setup.port} backlog 4096
  bind {LOOPBACK}:{setup.tls_port} backlog 4096 ssl crt {setup.certificate} {_HAPROXY_TLS}
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  use_backend echo if {{ path_beg /ws }}
  default_backend origin
backend origin
  balance roundrobin
{servers}
backend echo
  server echo {LOOPBACK}:{setup.origin.websocket_port}
"""


SECRET = "a-secret-of-the-benchmark-of-more-than-32-bytes"
POLICIES: dict[str, object] = {
    "auth_required": True,
    "rate_limit": {"strategy": "PerIP", "window_type": "TokenBucket", "requests_per_window": 10_000_000},
    "cors": {"allowed_origins": ["https://app.example.com"], "allow_credentials": True},
    "request_transformation": {"headers": [{"action": "set", "name": "X-Gateway", "value": "kairos"}]},
    "response_transformation": {"headers": [{"action": "set", "name": "X-Served-By", "value": "kairos"}]},
}
"""What the case `policies` has on its route: a token, a bucket, CORS and two header rules."""


def policies_config(setup: Setup) -> str:
    config = json.loads(kairos_config(setup))
    for route in config["routers"]:
        if route["external_path"] == "/rich/{id}":
            route.update(POLICIES)
    return json.dumps({**config, "jwt": {"secret": SECRET}}, indent=2)


def kairos_config(setup: Setup) -> str:
    backends = [{"host": f"http://{LOOPBACK}", "port": port} for port in setup.origin.ports]
    echo = [{"host": f"ws://{LOOPBACK}", "port": setup.origin.websocket_port}]
    resilience = {"retry": {}, "circuit_breaker": {}, "outlier_detection": {}, "health_check": {"path": "/plain/1"}}
    routers: list[dict[str, object]] = [
        {"external_path": path, "internal_path": path, "methods": ["GET", "POST"], "backends": backends, **resilience}
        for path in ("/plain/{id}", "/rich/{id}", "/files/{name}", "/upload")
    ]
    routers.append(
        {"external_path": "/ws", "internal_path": "/ws", "methods": ["GET"], "protocol": "websocket", "backends": echo}
    )
    log = {"format": "json", "file": str(setup.home / "access.log")} if setup.logging else {"format": "off"}
    config = {
        "version": 1,
        "server": {"tls": {"port": setup.tls_port, "certificates": [{"cert_file": str(setup.certificate)}]}},
        "limits": {"requests_per_connection": FOREVER, "body_bytes": 0, "connections": CLIENTS},
        "timeouts": {"idle": IDLE_S},
        "keepalive": {"idle": IDLE_S, "requests": FOREVER},
        "access_log": log,
        "routers": routers,
    }
    return json.dumps(config, indent=2)


def _nginx_command(setup: Setup, config: Path) -> list[str]:
    return [program("nginx"), "-e", "stderr", "-c", str(config)]


def _haproxy_command(setup: Setup, config: Path) -> list[str]:
    return [program("haproxy"), "-db", "-f", str(config)]


def _kairos_command(setup: Setup, config: Path) -> list[str]:
    workers, port = str(setup.workers), str(setup.port)
    options = ["--config", str(config), "--workers", workers, "--host", LOOPBACK, "--port", port, "--log", "warning"]
    return [sys.executable, "-m", "kairos.cli.gateway", *options]


CONFIGS: dict[str, tuple[str, Callable[[Setup], str], Callable[[Setup, Path], list[str]]]] = {
    "kairos": ("kairos.json", kairos_config, _kairos_command),
    "nginx": ("nginx.conf", nginx_config, _nginx_command),
    "policies": ("kairos.json", policies_config, _kairos_command),
    "haproxy": ("haproxy.cfg", haproxy_config, _haproxy_command),
}
"""For each peer its configuration file, what fills it, and the command that runs it."""
COMPARED = ("kairos", "nginx", "haproxy")
"""Who takes part in every case."""


@contextmanager
def started(name: str, origin: Origin, home: Path, workers: int, logging: bool) -> Iterator[Peer]:
    """Run one proxy for as long as the block lasts."""
    file_name, configure, command = CONFIGS[name]
    home.mkdir(parents=True)
    log = home / "output.log"
    setup = Setup(free_port(), origin, home, workers, logging)
    config = home / file_name
    config.write_text(configure(setup))
    env = {"KAIROS_STATE_DIR": str(home / "state"), "KAIROS_ADMIN_PORT": str(free_port())}
    with running(command(setup, config), log, env) as child:
        wait_until_serving(child, setup.port, "/plain/1", log)
        yield Peer(name, child.pid, setup.port, setup.tls_port, log)
