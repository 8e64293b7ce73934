"""Who asks: what an authenticator learned of a request's credential. Immutable, and shared by all requests that carry
the same credential, so that what is worked out from it (headers, verdicts) can be kept with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Identity:
    """A caller. Two are equal only if they are the same object; `who` says whether they are the same caller."""

    __slots__ = ("claims", "key", "method", "subject", "who")

    def __init__(
        self, subject: str, method: str, claims: Mapping[str, Any] | None = None, *, realm: str = "", key: object = None
    ) -> None:
        self.subject: Final = subject
        """The caller's name, as its authority calls it; may be empty where that gives none."""
        self.method: Final = method
        """The authenticator's name: `jwt`, `api_key`…"""
        self.claims: Final[Mapping[str, Any]] = {} if claims is None else claims
        """What else is known of it, in JSON's types. Nobody writes to it."""
        self.key: Final = key
        """The method's own."""
        self.who: Final = f"{method}:{realm}:{subject}"
        """The same for the same caller only: names are unique within `realm` (an issuer, say) of a method."""

    def __repr__(self) -> str:
        return f"<Identity {self.who}>"


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of this name, else what a dotted path leads to (`realm_access.roles`); None where there is none."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found
