"""Who asks: what an authenticator found out, for limits, templates and the backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """Of one exchange, or shared by all that showed the same credential: never changed."""

    subject: str
    """Who it is, as the credential says it: `sub` of a token, id of a key, name of a user."""
    method: str
    """How it was proved: `jwt`, `api_key`, `basic`, ..."""
    claims: dict[str, Any] = field(default_factory=dict)
    """What else is known."""
    key: Any = None
    """What the method itself has of it."""
