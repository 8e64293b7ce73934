"""Signed requests (HTTP message signatures, RFC 9421): whose keys are known, and what a signature has to cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from kairos.config.spec import Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

SECRET_BYTES = 32
SECRET_COMMAND = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
COMPONENTS = frozenset({"@method", "@authority", "@scheme", "@target-uri", "@request-target", "@path", "@query"})


class SigningKey(Spec, frozen=True):
    """A secret shared with one client."""

    id: Annotated[str, Meta(pattern=r"^[ !#-\[\]-~]{1,200}$")]
    """`keyid` of its signatures."""
    secret: str
    """32 bytes or more; `${ENV}` and `${file:...}` keep it out of the file."""
    subject: str | None = None
    """Whose it is: the caller's name for limits and backends; by default the id. A client that changes its secret has
    two keys of one subject for a while."""
    enabled: bool = True
    claims: dict[str, str | int | float | bool] = field(default_factory=dict)
    """What else is known of the caller, for `claims`, `claims_to_headers` and templates."""


class Signatures(Spec, frozen=True):
    """Signatures with hmac-sha256 for routes whose `auth` lists the method signature."""

    enabled: bool = True
    keys: list[SigningKey] = field(default_factory=list)
    required: list[str] = field(default_factory=lambda: ["@method", "@authority", "@path", "@query"])
    """Components that a signature has to cover: `@method`, `@authority`, `@scheme`, `@path`, `@query`, `@target-uri`,
    `@request-target`, and fields by their names."""
    body_digest: bool = True
    """A request with a body needs Content-Digest (RFC 9530), covered by the signature and right."""
    body_bytes: Annotated[int, Meta(ge=0, le=256 * 1024 * 1024)] = 1024 * 1024
    """The largest body that is held to compare its digest (413)."""
    max_age: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    """How long after `created` a signature is good."""
    skew: Annotated[float, Meta(ge=0, le=3_600)] = 30.0
    """How far the clocks of clients may be off."""
    require_nonce: bool = False
    """Refuse signatures without a `nonce`. One that is given can be used once in any case."""


def check(spec: Signatures, keys: Path, found: Findings) -> None:
    """Secrets that nobody guesses, components that there are."""
    if not spec.keys:
        found.error((*keys, "keys"), "lists no key, so that nobody could sign")
    taken: set[str] = set()
    for at, key in enumerate(spec.keys):
        if key.id in taken:
            found.error((*keys, "keys", at, "id"), f"'{key.id}' is there twice")
        taken.add(key.id)
        if len(key.secret.encode()) < SECRET_BYTES:
            message = f"is shorter than {SECRET_BYTES} bytes: make one with {SECRET_COMMAND}"
            found.error((*keys, "keys", at, "secret"), message)
    _check_required(spec, (*keys, "required"), found)


def _check_required(spec: Signatures, keys: Path, found: Findings) -> None:
    for at, name in enumerate(spec.required):
        if name.startswith("@") and name not in COMPONENTS:
            found.error((*keys, at), f"'{name}' is none of {', '.join(sorted(COMPONENTS))}")
        elif name != name.lower() or not name.strip() or '"' in name:
            found.error((*keys, at), f"'{name}' is no field name in lower case")
    if not {"@method", "@target-uri", "@request-target", "@path"} & set(spec.required):
        found.warning(keys, "a signature would be good for any method and path")
