"""Who sends a request to the admin API, as far as it was proved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kairos.control.access.permissions import ALL

if TYPE_CHECKING:
    from kairos.control.access.permissions import Permission

Method = Literal["local", "session", "token", "none"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, and what they may do."""

    name: str
    method: Method
    """How it was proved: by opening the socket in the state folder, a session's cookie, a token; or not at all."""
    permissions: frozenset[Permission]
    user_id: int | None = None
    credential: str = ""
    """Which session or token: its identifier, never its secret."""
    must_change: bool = False
    """The password has to be changed before anything else."""


NOBODY = Principal("", "none", frozenset())
LOCAL = Principal("local", "local", ALL)
"""Whoever may open the socket in the state folder runs as the gateway's user, or as root."""
