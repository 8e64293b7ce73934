"""Origins of web pages (RFC 6454), as they stand in Origin fields, and lists of them: exact, with `*`, or as patterns.

What a browser sends is lower case, in punycode and without the scheme's own port; so must be what is listed. `*` before
a host's suffix stands for one label or more, as a port for any port, and never for a part of another name:
`https://*.example.com` is not `https://example.com.evil.test`. `null` (sandboxed pages, files) is nobody's name: it is
in a list only where it is listed, and no pattern takes it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kairos.config.regex import Regex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kairos.config.problems import Findings, Path

NULL = "null"
ANY = "*"
MAX_ORIGIN = 512
"""Bytes: a scheme, a name of at most 253 and a port need less."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_V6 = r"\[[0-9a-f:.]+\]"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://((?:\*\.)?(?:{_NAME})|{_V6})(:(?:[1-9][0-9]{{0,4}}|\*))?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}


class WebOrigins:
    """A list of origins to be asked; `*` in it is left to whoever asks."""

    def __init__(self, listed: Sequence[str], patterns: Sequence[str] = ()) -> None:
        self._exact = frozenset(text for text in listed if "*" not in text)
        self._wild = [_wildcard(text) for text in listed if "*" in text and text != ANY]
        self._patterns = [Regex(text) for text in patterns]
        self.any = ANY in listed

    def lists(self, origin: str) -> bool:
        """Whether it is in the list by more than `*`."""
        if origin in self._exact:
            return True
        if origin == NULL or len(origin) > MAX_ORIGIN:
            return False
        return any(wild.fullmatch(origin) for wild in self._wild) or any(
            pattern.takes(origin.encode()) for pattern in self._patterns
        )


def _wildcard(text: str) -> re.Pattern[str]:
    """The labels before the suffix overlap with nothing: the search is linear."""
    host, port = (text[:-2], r":[0-9]{1,5}") if text.endswith(":*") else (text, "")
    before, star, after = host.partition("*")
    labels = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*" if star else ""
    return re.compile(re.escape(before) + labels + re.escape(after) + port)


def check_origins(listed: Sequence[str], keys: Path, found: Findings, *, stars: bool) -> None:
    """Each must be what a browser would send; `stars`: whether `*` and `null` have a meaning here."""
    for at, text in enumerate(listed):
        if text in (ANY, NULL):
            if not stars:
                found.error((*keys, at), f"'{text}' would trust every page: list the origins of your own")
        elif message := _mistake(text):
            found.error((*keys, at), message)


def _mistake(text: str) -> str | None:
    match = _ORIGIN.fullmatch(text)
    if match is None:
        lower = text.lower().rstrip("/")
        hint = f": write {lower}" if lower != text and _ORIGIN.fullmatch(lower) else ""
        return f"'{text}' is no origin a browser would send{hint or ', such as https://app.example.com'}"
    scheme, host, port = match.groups()
    if port is not None and port == _DEFAULT_PORTS.get(scheme):
        return f"browsers leave out the port of {scheme}: write {scheme}://{host}"
    if host.startswith("*.") and "." not in host[2:]:
        return f"'{text}' would take in every name below .{host[2:]}: name a domain"
    return None


def check_patterns(patterns: Sequence[str], keys: Path, found: Findings) -> None:
    """Each must be one that takes linear time (RE2 syntax); it is matched against the whole origin."""
    for at, text in enumerate(patterns):
        try:
            pattern = Regex(text)
        except ValueError as error:
            found.error((*keys, at), str(error))
            continue
        if pattern.takes(b"https://kairos-probe.invalid") or pattern.takes(b"https://www.example.com.kairos.invalid"):
            found.warning((*keys, at), f"'{text}' takes any origin: name your own domains, with \\. for each dot")
