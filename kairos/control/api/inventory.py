"""What the gateway consists of at this moment: workers, certificates, plugins."""

from __future__ import annotations

import time
from typing import Any

from litestar import get
from litestar.di import NamedDependency
from msgspec import Struct

from kairos.config.certificates import ends_of
from kairos.config.policies.plugins import Plugin
from kairos.control.api.guards import needs
from kairos.control.changes import Changes
from kairos.control.commands import Commands, WorkerStatus

TAGS = ["Gateway"]
DAY = 86_400.0


class CertificateStatus(Struct, frozen=True):
    """A certificate that is served."""

    file: str
    not_after: float
    """Unix seconds."""
    days_left: float
    expired: bool


class PluginUse(Struct, frozen=True):
    """A filter of the user's own, and where it is used."""

    plugin: str
    """Its file, or the name of its entry point."""
    kind: str
    """package, python, lua."""
    used_by: list[str]
    """`all routes`, `group NAME`, or a route's path."""


@get("/api/workers", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def list_workers(commands: NamedDependency[Commands]) -> list[WorkerStatus]:
    """Each worker process: its revision, connections, requests."""
    return commands.status().workers


@get("/api/certificates", tags=TAGS, sync_to_thread=True, **needs("status:read"))
def list_certificates(changes: NamedDependency[Changes]) -> list[CertificateStatus]:
    """Those that are served, and when they end."""
    now = time.time()
    return [
        CertificateStatus(file, ends, round((ends - now) / DAY, 2), ends <= now)
        for file, ends in ends_of(changes.config)
    ]


@get("/api/plugins", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def list_plugins(changes: NamedDependency[Changes]) -> list[PluginUse]:
    """Those that the configuration in use names."""
    config = changes.config
    users: list[tuple[str, Any]] = [("all routes", config)]
    users += [(f"group {name}", group) for name, group in config.groups.items()]
    users += [(route.external_path, route) for route in config.routers]
    found: dict[tuple[str, str], list[str]] = {}
    for user, holder in users:
        for plugin in holder.plugins or []:
            found.setdefault(_named(plugin), []).append(user)
    return [PluginUse(name, kind, list(dict.fromkeys(used))) for (name, kind), used in found.items()]


def _named(plugin: Plugin) -> tuple[str, str]:
    if plugin.file is None:
        return plugin.name or "", "package"
    return plugin.file, "lua" if plugin.file.endswith(".lua") else "python"


HANDLERS = [list_workers, list_certificates, list_plugins]
