"""Callers known by the client certificate that the TLS listener verified (mutual TLS)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from msgspec import field

from kairos.config.spec import Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

KINDS = ("uri", "dns", "email", "cn", "dn", "issuer", "sha256")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class Mtls(Spec, frozen=True):
    """For routes whose `auth` lists the method mtls; server.tls.client_auth says whose certificates are good."""

    enabled: bool = True
    subject: list[Literal["uri", "email", "dns", "cn", "dn", "sha256"]] = field(
        default_factory=lambda: ["uri", "email", "dns", "cn", "dn"]
    )
    """What names the caller: the first of these that the certificate has. `uri`, `email` and `dns` are its alternative
    names, `cn` its common name, `dn` its whole subject, `sha256` its fingerprint."""
    allow: list[str] = field(default_factory=list)
    """Who may use the route, `kind:value` with the kinds of `subject` and `issuer`, `*` for any text:
    `uri:spiffe://prod/*`, `sha256:9f86...`. None means everyone whose certificate is good."""
    forward: bool = False
    """Send the certificate to the backend as Client-Cert (RFC 9440). What a client sends under this and similar names
    never reaches it where this section holds."""


def check(spec: Mtls, keys: Path, found: Findings) -> None:
    """Patterns of a kind that there is."""
    if not spec.subject:
        found.error((*keys, "subject"), "names nothing: list at least one kind")
    for at, text in enumerate(spec.allow):
        kind, colon, value = text.partition(":")
        if not colon or kind not in KINDS or not value:
            found.error((*keys, "allow", at), f"'{text}' is no kind:value: begin with one of {', '.join(KINDS)}")
        elif kind == "sha256" and not _FINGERPRINT.fullmatch(value.lower().replace(":", "")):
            found.error((*keys, "allow", at), "a SHA-256 fingerprint has 64 hexadecimal digits")
