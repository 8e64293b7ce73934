"""Who may use a route: the methods by which callers prove who they are, and what of it the backend is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import field

from kairos.config.policies.claims import ClaimRule, check_headers, check_rules
from kairos.config.spec import Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

AuthMethod = Literal["jwt", "oidc", "api_key", "basic", "signature", "forward", "mtls"]
"""One a file in kairos/proxy/filters/authn/."""

SECTIONS: dict[AuthMethod, str] = {
    "api_key": "api_keys",
    "basic": "basic_auth",
    "signature": "signatures",
    "forward": "forward_auth",
}
"""Method → the policy that says what it is made of."""


class Auth(Spec, frozen=True):
    """Callers have to say who they are. `auth_required: true` on a route stands for this section with its defaults,
    where no other one holds for it."""

    enabled: bool = True
    methods: list[AuthMethod] = field(default_factory=lambda: ["jwt"])
    """Asked in this order: the first that finds a credential of its kind decides, and the others' are not passed on."""
    oidc: str | None = None
    """Which provider of the section `oidc` method `oidc` logs in at; may be left out where there is one only."""
    optional: bool = False
    """Let requests pass that carry no credential at all; one that is no good is refused all the same."""
    forward_credentials: bool = True
    """Pass the credential that decided on to the backend."""
    claims: list[ClaimRule] = field(default_factory=list)
    """What has to be said of the caller (403), beside what its method asks for."""
    claims_to_headers: dict[str, str] = field(default_factory=dict)
    """Claim → header that tells the backend. What a client sends under these names reaches none, by whatever route."""


def check(spec: Auth, keys: Path, found: Findings) -> None:
    """What types cannot say."""
    if not spec.methods:
        found.error((*keys, "methods"), "names no method: write at least one, or enabled: false")
    for at, method in enumerate(spec.methods):
        if method in spec.methods[:at]:
            found.error((*keys, "methods", at), f"{method} is listed twice")
    check_rules(spec.claims, (*keys, "claims"), found)
    check_headers(spec.claims_to_headers, (*keys, "claims_to_headers"), found)
