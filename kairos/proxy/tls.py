"""The secure listener of a snapshot: certificates and their settings become contexts by server name.

Certificates for the same names, with the same settings but keys of different kinds, share a context. What tickets of
one context are good for is told by its session id context: the same names, the same demands on clients. So a reload
that only renews certificates lets tickets live, and one that changes whom to let in does not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kairos._speedups.tls import TlsContext, TlsError, TlsServer, staple_good_until
from kairos.config.certificates import names_of
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from kairos.config.listeners import ClientCertificates, ServerCertificate, ServerTls

log = get_logger("proxy")
OFF = "off"
Group = tuple["frozenset[str]", "ClientCertificates"]
"""What certificates of one context have in common."""


def tls_server(tls: ServerTls) -> TlsServer:
    """How connections to the secure port are served.

    Raises:
        TlsError, OSError: a file cannot be used.
    """
    groups: dict[Group, list[ServerCertificate]] = {}
    for certificate in tls.certificates:
        listed = certificate.names or names_of(certificate.cert_file)
        key = frozenset(name.lower() for name in listed), certificate.client_auth or tls.client_auth
        groups.setdefault(key, []).append(certificate)
    contexts = {key: _context(tls, key, certificates) for key, certificates in groups.items()}
    if not contexts:
        raise TlsError("server.tls has no certificate")
    by_name: dict[str, TlsContext] = {}
    for (names, _), context in contexts.items():
        for name in names:
            by_name.setdefault(name, context)
    return TlsServer(by_name, next(iter(contexts.values())), tls.unknown_names == "reject")


def _context(tls: ServerTls, key: Group, certificates: list[ServerCertificate]) -> TlsContext:
    names, clients = key
    files = [(one.cert_file, one.key_file or one.cert_file, _staple(one.ocsp_file)) for one in certificates]
    demand = demand_of(clients)
    asks = clients if clients.mode != OFF else None
    identity = hashlib.sha256(msgspec.json.encode([sorted(names), demand])).digest()
    return TlsContext(tls, files, asks, identity, demand)


def _staple(path: str | None) -> bytes | None:
    """One that is no good is left out: clients do without, and --check has told."""
    if path is None:
        return None
    staple = Path(path).read_bytes()
    try:
        staple_good_until(staple)
    except TlsError as error:
        log.warning("OCSP response not stapled", file=path, reason=str(error))
        return None
    return staple


def demand_of(clients: ClientCertificates) -> str:
    """The same for settings that let the same clients in."""
    if clients.mode == OFF:
        return OFF
    found = hashlib.sha256(msgspec.json.encode(clients))
    for path in (clients.ca_file, clients.crl_file):
        if path is not None:
            found.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return f"{clients.mode} {found.hexdigest()}"
