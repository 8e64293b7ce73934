"""Header fields as settings name them: what is one at all, and which the gateway writes itself."""

from __future__ import annotations

import re

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
BREAKS = re.compile(r"[\r\n\0]")
_FRAMING = frozenset(("connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"))
REQUEST_OWN = _FRAMING | {
    "expect", "forwarded", "host", "proxy-connection", "via", "x-forwarded-for", "x-forwarded-host",
    "x-forwarded-port", "x-forwarded-proto", "x-request-id",
}  # fmt: skip
RESPONSE_OWN = _FRAMING | {"via", "x-request-id"}


def field_problem(name: str, value: str, own: frozenset[str]) -> str | None:
    """What is wrong with a field that a setting names; None: nothing."""
    if not NAME.fullmatch(name):
        return f"'{name}' is no header name"
    if name.lower() in own:
        return f"{name} is written by the gateway itself"
    if BREAKS.search(value):
        return f"the value of {name} holds a line break or NUL"
    return None
