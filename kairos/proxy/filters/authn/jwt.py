"""JSON Web Tokens: one verifier for all routes, carried over a reload that changes neither settings nor files."""

from __future__ import annotations

import hashlib
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from kairos._speedups.tokens import TokenCache
from kairos.config.policies.jwt import TokenSource, providers
from kairos.proxy.site import ControlError

if TYPE_CHECKING:
    from kairos.config.policies.jwt import Jwt, JwtProvider
    from kairos.proxy.exchange import Runtime
    from kairos.proxy.filters.authenticate import Authenticator
    from kairos.proxy.filters.authn.dpop import Proofs
    from kairos.proxy.filters.authn.remote import RemoteKeys
    from kairos.proxy.site import Services, Site

KEYS_PATH = "/keys"
"""Of the control process's socket: see kairos/control/keysets.py."""

_KEYS: WeakKeyDictionary[Services, tuple[object, ...]] = WeakKeyDictionary()
"""Of each snapshot: files are read once for all of its routes."""


def build(site: Site) -> Authenticator:
    """The authenticator of the configuration's jwt section."""
    spec = site.config.jwt
    if spec is None:
        raise ValueError(f"route {site.name} wants tokens, but there is no jwt section")
    if site.services not in _KEYS:
        _KEYS[site.services] = spec_key(spec)
    return site.kept(("jwt", _KEYS[site.services]), partial(_bearer, spec, site))


def spec_key(spec: Jwt) -> tuple[object, ...]:
    """What a verifier is made of: the settings, and what stands in the files that they name."""
    import msgspec

    files = [
        path
        for one in providers(spec)
        for path in (one.public_key_file, one.jwks_file, one.revocations_file)
        if path is not None
    ]
    return (msgspec.json.encode(spec), *(hashlib.sha256(Path(path).read_bytes()).digest() for path in files))


def _bearer(spec: Jwt, site: Site) -> Authenticator:
    # Here, for they bring in cryptography: workers without such a route do without its 8 MB and 0.2 s.
    from kairos.proxy.filters.authn.bearer import Bearer
    from kairos.proxy.filters.authn.carried import Place
    from kairos.proxy.filters.authn.verify import Verifier

    plain = spec.sources == [TokenSource("header")]
    cache = TokenCache(spec.cache_tokens, secrets.randbits(64)) if spec.cache_tokens else None
    places = None if plain else [Place(source) for source in spec.sources]
    return Bearer(Verifier(spec, partial(_remote, site)), cache, places, site.board.page, _proofs(spec, site))


def _proofs(spec: Jwt, site: Site) -> Proofs | None:
    if spec.dpop is None:
        return None
    from kairos.proxy.filters.authn.dpop import Proofs
    from kairos.proxy.filters.authn.signature import Nonces

    return Proofs(spec.dpop, Nonces(site.board, spec.dpop.max_age + spec.dpop.skew))


def _remote(site: Site, provider: JwtProvider) -> RemoteKeys:
    """Keys in hand stay there when a reload changes something else."""
    key = ("jwks", provider.jwks_url, provider.jwks_ca_file, *provider.algorithms)
    return site.kept(key, partial(_asking, site.services.runtime, provider))


def _asking(runtime: Runtime, provider: JwtProvider) -> RemoteKeys:
    from kairos.proxy.filters.authn.remote import RemoteKeys

    async def ask(body: bytes) -> bytes:
        try:
            # The snapshot's in force then: this verifier may outlive the one it was made for.
            return (await runtime.snapshot.services.control("POST", KEYS_PATH, body)).body
        except ControlError as error:
            raise OSError(str(error)) from None

    assert provider.jwks_url is not None
    return RemoteKeys(provider.jwks_url, provider.algorithms, ask)
