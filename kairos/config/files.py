"""What a configuration takes from other files, so that a reload can tell whether anything has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from kairos.config.policies import files_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.listeners import ServerTls
    from kairos.config.load import Loaded
    from kairos.config.model import Config


def digest(loaded: Loaded) -> str:
    """The same while a reload would change nothing: of the text, what its `${…}` stand for, files it names."""
    found = hashlib.sha256(loaded.source.data)
    found.update(loaded.fingerprint.encode())
    for name in sorted({*tls_files(loaded.config), *policy_files(loaded.config)}):
        found.update(name.encode() + hashlib.sha256(_content(name)).digest())
    return found.hexdigest()


def _content(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError:  # whoever needs it says so
        return b""


def policy_files(config: Config) -> Iterator[str]:
    """Lists, keys and users that policies read."""
    for holder in (config, *config.groups.values(), *config.routers):
        yield from files_of(holder)


def tls_files(config: Config) -> Iterator[str]:
    """Every certificate and key that is named."""
    if config.server.tls is not None:
        yield from _served(config.server.tls)
    if config.admin.tls is not None:
        yield from filter(None, (config.admin.tls.cert_file, config.admin.tls.key_file))
    for tls in (config.tls, *(route.tls for route in config.routers)):
        if tls is not None:
            yield from filter(None, (tls.ca_file, tls.cert_file, tls.key_file))


def _served(tls: ServerTls) -> Iterator[str]:
    clients = [tls.client_auth, *(one.client_auth for one in tls.certificates if one.client_auth is not None)]
    for one in tls.certificates:
        yield from filter(None, (one.cert_file, one.key_file, one.ocsp_file))
    for auth in clients:
        yield from filter(None, (auth.ca_file, auth.crl_file))
