"""What can be allowed, and the roles that allow it. Every endpoint names one of these permissions."""

from __future__ import annotations

from typing import Literal, get_args

Permission = Literal[
    "status:read",
    "metrics:read",
    "config:read",
    "config:write",
    "backends:operate",
    "cache:purge",
    "limits:operate",
    "gateway:operate",
    "logs:operate",
    "tail:read",
    "connections:read",
    "connections:operate",
    "audit:read",
    "users:read",
    "users:write",
    "backup:read",
    "self",
]
"""`self` is everybody's own account: password, tokens, sessions."""

PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
ALL = frozenset(PERMISSIONS)
VIEWER: frozenset[Permission] = frozenset({"status:read", "metrics:read", "config:read", "self"})
OPERATOR: frozenset[Permission] = VIEWER | {
    "backends:operate", "cache:purge", "limits:operate", "gateway:operate", "logs:operate", "tail:read",
    "connections:read", "connections:operate",
}  # fmt: skip
EDITOR: frozenset[Permission] = OPERATOR | {"config:write"}

ROLES: dict[str, frozenset[Permission]] = {"viewer": VIEWER, "operator": OPERATOR, "editor": EDITOR, "admin": ALL}
"""Those that are always there."""
