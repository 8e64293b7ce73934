"""The ways to prove who one is, one file each, and the filter made of those a route lists.

To add one: `authn/<method>.py` with an Authenticator and `build(site) -> Authenticator`, a line in METHODS, and its
name in `AuthMethod` of kairos/config/policies/auth.py. What it is made of belongs to a spec of its own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from kairos.config.policies.auth import Auth
from kairos.proxy.edits import Edits, edit
from kairos.proxy.fields import REQUEST_OWN
from kairos.proxy.filters.authenticate import Authenticate, Refusal
from kairos.proxy.filters.authn import api_key, basic, forward, jwt, oidc, signature
from kairos.proxy.filters.authn.rules import Rules
from kairos.proxy.identity import claim

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kairos.config.policies.auth import AuthMethod
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
}

_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""A text that every recipient of a header reads as it was written: no blanks around it, nothing beyond ASCII."""


def build(site: Site) -> Filter | None:
    """The filter of a route whose callers have to say who they are."""
    spec = site.policies.auth or (Auth() if site.route.auth_required else None)
    if spec is None:
        return None
    methods = [METHODS[name](site) for name in spec.methods]
    anonymous = claim_edits({}, spec.claims_to_headers) if spec.claims_to_headers else None
    return Authenticate(methods, Judge(spec), anonymous, optional=spec.optional, forward=spec.forward_credentials)


class Judge:
    """What becomes of a caller: the header edits that tell the backend, or a refusal."""

    def __init__(self, spec: Auth) -> None:
        self._rules = Rules(spec.claims)
        self._headers = spec.claims_to_headers

    def __call__(self, identity: Identity) -> Edits | Refusal:
        broken = self._rules.broken(identity.claims)
        if broken is not None:
            challenge = INSUFFICIENT if identity.method == "jwt" else None
            return Refusal("forbidden", f"The caller's claim '{broken.claim}' does not allow this", challenge)
        return claim_edits(identity.claims, self._headers)


INSUFFICIENT = b'Bearer realm="kairos", error="insufficient_scope"'


def claim_edits(claims: Mapping[str, Any], headers: Mapping[str, str]) -> Edits:
    """Each header with its claim's value; one whose claim is not there is removed."""
    edits = [edit(header, header_value(claim(claims, name)), REQUEST_OWN) for name, header in headers.items()]
    return Edits(edits)


def header_value(value: Any) -> bytes | None:
    """A claim as a header: plain texts as they are, a list of plain texts with commas, all else as JSON in ASCII.

    A text that a recipient could read differently (blanks around it, a comma in a list, a quote in front, which is
    how JSON begins) is JSON too, so that no text passes for another.
    """
    if value is None:
        return None
    if isinstance(value, str) and _is_plain(value):
        return value.encode()
    if isinstance(value, list) and value and all(isinstance(item, str) and _is_item(item) for item in value):
        return ",".join(value).encode()
    return json.dumps(value, separators=(",", ":")).encode()


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None and text[0] not in '"[{'


def _is_item(text: str) -> bool:
    return "," not in text and _is_plain(text)
