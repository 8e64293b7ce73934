"""Client certificates: the listener verified them, here they become an identity.

What a certificate says is worked out when it is first seen, and kept by its bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from fnmatch import translate
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from kairos.proxy.edits import Edits, edit
from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.fields import REQUEST_OWN
from kairos.proxy.filters.authenticate import Authenticator, Refusal
from kairos.proxy.filters.authn.memory import Recent
from kairos.proxy.identity import Identity

if TYPE_CHECKING:
    from cryptography import x509

    from kairos.config.policies import Policies
    from kairos.config.policies.mtls import Mtls
    from kairos.proxy.site import Services, Site

KEPT = 4096
KEEP_S = 3600.0
EXPIRED = Refusal("unauthorized", "Client certificate has expired")
NOT_ALLOWED = Refusal("forbidden", "This client certificate may not be used here")
NAMES = (
    "Client-Cert", "Client-Cert-Chain", "X-Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Cert", "X-SSL-CERT-DN",
    "X-SSL-Client-CN", "X-SSL-Client-Cert", "X-SSL-Client-DN", "X-SSL-Client-S-DN", "X-SSL-Client-SHA1",
    "X-SSL-Client-Verify", "X-SSL-Issuer", "X-SSL-Subject-DN",
)  # fmt: skip
"""Headers by which backends are told of client certificates: never the client's own."""


class Caller(NamedTuple):
    """What a certificate says."""

    identity: Identity
    ends: float
    allowed: bool


class MtlsAuth(Authenticator):
    """Asks the connection for the certificate that the client proved to have."""

    def __init__(self, spec: Mtls) -> None:
        self._spec = spec
        self._allow = [_pattern(text) for text in spec.allow]
        self._known: Recent[Caller] = Recent(KEPT)

    def authenticate(self, x: Exchange) -> Identity | Refusal | None:
        der = x.client_certificate
        if der is None:
            return None
        caller = self._known.find(der)
        if caller is None:
            caller = self._caller(der)
            self._known.keep(der, caller, KEEP_S)
        if caller.ends <= time.time():  # a connection may live longer than the certificate it began with
            return EXPIRED
        return caller.identity if caller.allowed else NOT_ALLOWED

    def _caller(self, der: bytes) -> Caller:
        from cryptography import x509

        found = x509.load_der_x509_certificate(der)
        told = told_by(found, der)
        subject = next((told[kind][0] for kind in self._spec.subject if told[kind]), told["dn"][0])
        claims: dict[str, Any] = {kind: values[0] for kind, values in told.items() if values}
        claims |= {"sub": subject, "san": [*told["uri"], *told["email"], *told["dns"]]}
        claims["serial"] = f"{found.serial_number:x}"
        identity = Identity(subject, "mtls", claims, key=told["sha256"][0])
        allowed = not self._allow or any(
            pattern.fullmatch(value) for kind, pattern in self._allow for value in told[kind]
        )
        return Caller(identity, found.not_valid_after_utc.timestamp(), allowed)

    def missing(self, x: Exchange) -> str:
        return "A client certificate is required"


def _pattern(text: str) -> tuple[str, re.Pattern[str]]:
    kind, _, value = text.partition(":")
    if kind == "sha256":
        value = value.lower().replace(":", "")
    return kind, re.compile(translate(value.replace("[", "[[]").replace("?", "[?]")))


def told_by(found: x509.Certificate, der: bytes) -> dict[str, list[str]]:
    """What a certificate says of whom it is for, by kind."""
    from cryptography import x509

    told: dict[str, list[str]] = {
        "sha256": [hashlib.sha256(der).hexdigest()],
        "dn": [found.subject.rfc4514_string()],
        "issuer": [found.issuer.rfc4514_string()],
        "cn": [str(name.value) for name in found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)],
    }
    kinds: dict[str, Any] = {"uri": x509.UniformResourceIdentifier, "email": x509.RFC822Name, "dns": x509.DNSName}
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return told | {kind: [] for kind in kinds}
    return told | {kind: names.get_values_for_type(of) for kind, of in kinds.items()}


class ClientCert(Filter):
    """Tells the backend of the certificate, by choice, and drops what the client says of one, always."""

    def __init__(self, *, forward: bool) -> None:
        self._forward = forward
        self._none = Edits([edit(name, None, REQUEST_OWN) for name in NAMES])
        self._known: Recent[Edits] = Recent(KEPT)

    def on_request(self, x: Exchange) -> None:
        der = x.client_certificate if self._forward else None
        x.add_request_edits(self._none if der is None else self._known.find(der) or self._told(der))

    def _told(self, der: bytes) -> Edits:
        """As a byte sequence of RFC 8941."""
        value = b":" + base64.b64encode(der) + b":"
        edits = Edits([edit(name, value if name == NAMES[0] else None, REQUEST_OWN) for name in NAMES])
        self._known.keep(der, edits, KEEP_S)
        return edits


def build(site: Site) -> Authenticator:
    """The authenticator of a route that lists mtls."""
    from kairos.config.policies.mtls import Mtls

    return MtlsAuth(site.policies.mtls or Mtls())


def build_header(site: Site) -> Filter | None:
    """Where certificates tell of callers on one route, no route takes what a client says of them: backends serve
    several routes."""
    if site.services not in _in_use:
        _in_use[site.services] = any(map(_tells, (site.config, *site.config.groups.values(), *site.config.routers)))
    spec = site.policies.mtls
    return ClientCert(forward=spec is not None and spec.forward) if _in_use[site.services] else None


_in_use: WeakKeyDictionary[Services, bool] = WeakKeyDictionary()
"""Whether a configuration, by the services of its snapshot, knows anybody by a certificate."""


def _tells(holder: Policies) -> bool:
    return holder.mtls is not None or (holder.auth is not None and "mtls" in holder.auth.methods)
