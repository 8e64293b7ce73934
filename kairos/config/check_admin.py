"""Judges how the gateway is managed: the admin port and its certificate, and the database.

What would fail only once the control process has loaded it, behind a gateway that serves, is found here.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from typing import TYPE_CHECKING

from kairos.config.check_listeners import check_certificate
from kairos.config.listeners import ServerCertificate

if TYPE_CHECKING:
    from kairos.config.admin import Admin, Storage
    from kairos.config.model import Config
    from kairos.config.problems import Findings

DATABASES = ("sqlite", "postgresql", "postgres")
_URL = re.compile(r"(\w+)(\+\w+)?://.*", re.S)


def check_admin(config: Config, found: Findings) -> None:
    """The sections `admin` and `storage`."""
    _check_port(config, found)
    _check_lockout(config.admin, found)
    _check_storage(config.storage, found)


def _check_port(config: Config, found: Findings) -> None:
    admin, server = config.admin, config.server
    if not admin.enabled:
        return
    if admin.tls is not None:
        own = ServerCertificate(cert_file=admin.tls.cert_file, key_file=admin.tls.key_file)
        check_certificate(own, ("admin", "tls"), found)
    elif not _is_local(admin.host):
        advice = "set admin.tls, or let it listen on 127.0.0.1"
        found.warning(("admin", "host"), f"passwords and tokens go to {admin.host} in clear: {advice}")
    if admin.port and admin.port == server.port and server.plain:
        found.error(("admin", "port"), f"port {admin.port} is the gateway's own: give one of them another")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _check_lockout(admin: Admin, found: Findings) -> None:
    if admin.lockout.longest < admin.lockout.duration:
        found.error(("admin", "lockout", "longest"), "is shorter than duration")


def _check_storage(storage: Storage, found: Findings) -> None:
    if storage.url is None:
        if storage.source == "database":
            advice = "such as postgresql://user:password@host/database"
            found.error(
                ("storage", "url"), f"is missing: a configuration that nodes share needs their database, {advice}"
            )
        return
    scheme = _URL.fullmatch(storage.url)
    if scheme is None or scheme[1] not in DATABASES:
        found.error(("storage", "url"), "is no database: write postgresql://user:password@host/database")
    elif scheme[1] != "sqlite" and importlib.util.find_spec("asyncpg") is None:
        found.error(("storage", "url"), "needs the PostgreSQL driver: pip install 'kairos-gateway[postgres]'")
