"""The ways to prove who one is, one file each, and the filter made of those a route lists.

To add one: `authn/<method>.py` with an Authenticator and `build(site) -> Authenticator`, a line in METHODS, and its
name in `AuthMethod` of kairos/config/policies/auth.py. What it is made of belongs to a spec of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.config.policies.auth import Auth
from kairos.proxy.filters.authenticate import Authenticate, Refusal
from kairos.proxy.filters.authn import api_key, basic, forward, jwt, mtls, oidc, signature
from kairos.proxy.filters.authn.rules import Rules
from kairos.proxy.filters.authn.telling import claim_edits, reserved_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kairos.config.policies.auth import AuthMethod
    from kairos.proxy.edits import Edits
    from kairos.proxy.exchange import Filter
    from kairos.proxy.filters.authenticate import Authenticator
    from kairos.proxy.identity import Identity
    from kairos.proxy.site import Site

METHODS: dict[AuthMethod, Callable[[Site], Authenticator]] = {
    "jwt": jwt.build,
    "oidc": oidc.build,
    "api_key": api_key.build,
    "basic": basic.build,
    "signature": signature.build,
    "forward": forward.build,
    "mtls": mtls.build,
}


def build(site: Site) -> Filter | None:
    """The filter of a route whose callers have to say who they are, or of one that must not tell lies of them."""
    reserved = reserved_headers(site)
    spec = site.policies.auth or (Auth() if site.route.auth_required else None)
    if spec is None:
        return Authenticate([], Judge(Auth()), claim_edits({}, {}, reserved), optional=True) if reserved else None
    methods = [METHODS[name](site) for name in spec.methods]
    anonymous = claim_edits({}, spec.claims_to_headers, reserved) if reserved else None
    judge = Judge(spec, [name for name in reserved if name.lower() not in _told_by_service(spec, site)])
    return Authenticate(methods, judge, anonymous, optional=spec.optional, forward=spec.forward_credentials)


def _told_by_service(spec: Auth, site: Site) -> frozenset[str]:
    """What method `forward` tells the backend by itself, and takes out where another one decides (lower case)."""
    service = site.policies.forward_auth if "forward" in spec.methods else None
    return frozenset() if service is None else frozenset(map(str.lower, service.response_headers))


class Judge:
    """What becomes of a caller: the header edits that tell the backend, or a refusal."""

    def __init__(self, spec: Auth, reserved: Collection[str] = ()) -> None:
        self._rules = Rules(spec.claims)
        self._headers = spec.claims_to_headers
        self._reserved = reserved

    def __call__(self, identity: Identity) -> Edits | Refusal:
        broken = self._rules.broken(identity.claims)
        if broken is not None:
            challenge = INSUFFICIENT if identity.method == "jwt" else None
            return Refusal("forbidden", f"The caller's claim '{broken.claim}' does not allow this", challenge)
        return claim_edits(identity.claims, self._headers, self._reserved)


INSUFFICIENT = b'Bearer realm="kairos", error="insufficient_scope"'
