"""JSON Web Tokens: who issues them, with which keys, what they have to say, where they stand in a request.

A provider has exactly one source of keys. With several providers the token's `iss` says whose it is, so each of them
names its issuers, and no issuer has two.
"""

from __future__ import annotations

import re
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from kairos.config.fields import NAME
from kairos.config.policies.claims import ClaimRule, check_rules
from kairos.config.shared_secrets import SECRET_BYTES, SECRET_COMMAND
from kairos.config.spec import Seconds, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.jose import KeySet
    from kairos.config.problems import Findings, Path

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]  # fmt: skip
ProofAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
KEY_SOURCES = ("secret", "public_key", "public_key_file", "jwks_file", "jwks_url")
DEFAULT_SECRET = "please-change-this-secret"
DEFAULT_NAMES = {"header": "Authorization", "cookie": "access_token", "query": "access_token", "websocket": "bearer"}


class JwtProvider(Spec, frozen=True, kw_only=True):
    """One issuer of tokens."""

    name: str = ""
    """For logs; the issuer by default."""
    secret: str | None = None
    """HMAC secret, 32 bytes or more; `${ENV}` and `${file:...}` keep it out of the file."""
    public_key: str | None = None
    """PEM public key or certificate."""
    public_key_file: str | None = None
    """File with such a one."""
    jwks_file: str | None = None
    """File with a JWK set."""
    jwks_url: str | None = None
    """`https://` address of a JWK set, fetched by the control process and kept for its next start."""
    jwks_ca_file: str | None = None
    """Authorities to verify that server by, instead of the system's."""
    jwks_refresh: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    """Between two fetches of it."""
    jwks_min_interval: Annotated[float, Meta(ge=0.05, le=3_600)] = 10.0
    """Least time between two fetches that tokens with an unknown kid bring about."""
    algorithms: list[Algorithm] = field(default_factory=list)
    """Signatures that are taken; none means those that fit the key, and HS256 for a secret."""
    issuer: str | list[str] | None = None
    """`iss` a token must have, or several of which it must have one; none means unchecked."""
    audience: str | list[str] | None = None
    """`aud` a token must have, or several of which it must have one; none means unchecked."""
    leeway: Annotated[float, Meta(ge=0, le=3_600)] = 60.0
    """How far this clock and the issuer's may differ for `exp`, `nbf` and `iat`."""
    required_claims: list[str] = field(default_factory=list)
    """Claims a token must carry, beside `exp`."""
    claims: list[ClaimRule] = field(default_factory=list)
    """What claims have to be."""
    types: list[str] = field(default_factory=lambda: ["JWT", "at+jwt"])
    """`typ` of the header, where a token has one, in any case."""
    certificate_bound: bool = True
    """Tokens bound to a client certificate (`cnf`, RFC 8705) are good only on a TLS connection that shows it."""
    revocations_file: str | None = None
    """Tokens no longer to be taken, read anew with each reload."""


class TokenSource(Spec, frozen=True):
    """Where a token may stand."""

    in_: Literal["header", "cookie", "query", "websocket"] = field(name="in")
    name: str | None = None
    """Of the header, cookie or query parameter, or the subprotocol that stands before the token."""


class Dpop(Spec, frozen=True):
    """Tokens bound to a key of the client's (`cnf.jkt`) are good only with a proof made for the request (RFC 9449)."""

    required: bool = False
    """Refuse tokens that are bound to nothing, neither a key nor a client certificate."""
    algorithms: list[ProofAlgorithm] = field(default_factory=lambda: ["ES256", "EdDSA", "PS256", "RS256"])
    """Signatures of proofs that are taken."""
    max_age: Annotated[float, Meta(gt=0, le=3_600)] = 60.0
    """How old a proof may be (`iat`)."""
    skew: Annotated[float, Meta(ge=0, le=600)] = 5.0
    """How far a client's clock may be ahead."""
    origin: str | None = None
    """`https://api.example.com`, as clients know the gateway, where it cannot be told from the request."""


class Jwt(JwtProvider, frozen=True, kw_only=True):
    """Tokens of routes with the method jwt."""

    providers: list[JwtProvider] = field(default_factory=list)
    """Several issuers, instead of the one described here."""
    sources: list[TokenSource] = field(default_factory=lambda: [TokenSource("header")])
    """Where tokens are looked for; two different ones in a request are refused."""
    dpop: Dpop | None = None
    """Proofs of possession; absent means that tokens bound to a key are taken like any others."""
    max_token_bytes: Annotated[int, Meta(ge=256, le=65_536)] = 8192
    """Longer tokens are refused unread."""
    cache_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 8192
    """Verified tokens each worker remembers; 0 verifies every time."""
    cache_seconds: Seconds = 300.0
    """Longest time it does, if a token does not expire earlier."""


def providers(spec: Jwt) -> list[JwtProvider]:
    """Those that hold: of a section without a list, the section itself."""
    return spec.providers or [spec]


def texts(value: str | list[str] | None) -> tuple[str, ...]:
    """One, several or none, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value or ())


# ---- what types cannot say


def check(spec: Jwt, keys: Path, found: Findings, *, insecure_dev: bool = False) -> None:
    """Everything that can be known without asking a server."""
    if spec.providers:
        _check_apart(spec, keys, found)
    for here, provider in _places(spec, keys):
        _check_provider(provider, here, found, insecure_dev=insecure_dev)
    _check_issuers(spec, keys, found)
    for at, source in enumerate(spec.sources):
        _check_source(source, (*keys, "sources", at), found)
    if not spec.sources:
        found.error((*keys, "sources"), "lists no place where tokens stand")
    if spec.dpop is not None:
        _check_dpop(spec.dpop, (*keys, "dpop"), found)
        if not any(source.in_ == "header" and source.name in (None, "Authorization") for source in spec.sources):
            found.error((*keys, "sources"), "tokens with a proof stand in Authorization: add {in: header}")


def _check_dpop(spec: Dpop, keys: Path, found: Findings) -> None:
    if not spec.algorithms:
        found.error((*keys, "algorithms"), "must name at least one algorithm")
    if spec.origin is not None:
        parts = urlsplit(spec.origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/") or parts.query:
            found.error((*keys, "origin"), f"'{spec.origin}' is no origin: write https://name")


def _places(spec: Jwt, keys: Path) -> Iterator[tuple[Path, JwtProvider]]:
    if not spec.providers:
        yield keys, spec
    for at, provider in enumerate(spec.providers):
        yield (*keys, "providers", at), provider


def _check_apart(spec: Jwt, keys: Path, found: Findings) -> None:
    """Beside a list of providers, what only one of them can mean."""
    for name in JwtProvider.__struct_fields__:
        if getattr(spec, name) != getattr(_PLAIN, name):
            found.error((*keys, name), "stands beside 'providers': write it in the provider that it is about")


_PLAIN = JwtProvider()


def _check_issuers(spec: Jwt, keys: Path, found: Findings) -> None:
    taken: dict[str, int] = {}
    for at, provider in enumerate(spec.providers):
        here = (*keys, "providers", at, "issuer")
        if len(spec.providers) > 1 and not texts(provider.issuer):
            found.error(here, "is needed: with several providers the token's iss says whose it is")
        for issuer in texts(provider.issuer):
            other = taken.setdefault(issuer, at)
            if other != at:
                found.error(here, f"'{issuer}' is that of providers[{other}]")


def _check_provider(provider: JwtProvider, keys: Path, found: Findings, *, insecure_dev: bool) -> None:
    given = [name for name in KEY_SOURCES if getattr(provider, name) is not None]
    if len(given) != 1:
        wanted = f"exactly one of {', '.join(KEY_SOURCES)}"
        found.error(keys, f"needs {wanted}" + (f", not {' and '.join(given)}" if given else ""))
    if provider.secret is not None:
        _check_secret(provider, keys, found, insecure_dev=insecure_dev)
    _check_public(provider, keys, found)
    if provider.jwks_url is not None:
        _check_url(provider, keys, found)
    for name in ("issuer", "audience"):
        value = getattr(provider, name)
        if value == [] or "" in texts(value):
            found.error((*keys, name), "is empty, so that no token would pass: leave it out to check nothing")
    if provider.jwks_url is not None and not texts(provider.audience):
        found.warning((*keys, "audience"), "is not set: tokens that this issuer made for others are taken too")
    check_rules(provider.claims, (*keys, "claims"), found)
    if provider.revocations_file is not None:
        _check_revocations(provider.revocations_file, (*keys, "revocations_file"), found)


def _check_secret(provider: JwtProvider, keys: Path, found: Findings, *, insecure_dev: bool) -> None:
    """A guessable secret lets anybody sign tokens; an empty one is refused even for development."""
    secret, here = provider.secret or "", (*keys, "secret")
    wrong = [name for name in provider.algorithms if not name.startswith("HS")]
    if wrong:
        found.error((*keys, "algorithms"), f"{wrong[0]} needs a public key, not a secret: take HS256, HS384 or HS512")
    if not secret:
        found.error(here, f"JWT secret cannot be empty: make one with {SECRET_COMMAND}")
        return
    if not wrong:
        _check_key(provider, here, found)
    weakness = _weakness(secret, provider.algorithms)
    if weakness and insecure_dev:
        found.warning(here, f"{weakness}; accepted because of --insecure-dev")
    elif weakness:
        found.error(here, f"{weakness}: make one with {SECRET_COMMAND} (--insecure-dev accepts it)")


def _weakness(secret: str, algorithms: list[Algorithm]) -> str | None:
    if secret == DEFAULT_SECRET:
        return "JWT secret must be changed from default value"
    size = len(secret.encode())
    if size < SECRET_BYTES:
        return f"JWT secret should be at least {SECRET_BYTES} characters for security"
    longest = max((int(name[2:]) // 8 for name in algorithms if name.startswith("HS")), default=0)
    return f"JWT secret should be at least {longest} bytes for HS{longest * 8}" if size < longest else None


def _check_public(provider: JwtProvider, keys: Path, found: Findings) -> None:
    """Keys in the text or in files are read once to see whether they can be used."""
    for name in ("public_key", "public_key_file", "jwks_file"):
        if getattr(provider, name) is not None:
            _check_key(provider, (*keys, name), found)
    if provider.jwks_url is not None and any(name.startswith("HS") for name in provider.algorithms):
        found.error((*keys, "algorithms"), "HS256 and its kin need a secret, which no address may hand out")


def _check_key(provider: JwtProvider, here: Path, found: Findings) -> None:
    from kairos.config.jose import JwkError

    try:
        problems = local_keys(provider).problems
    except (JwkError, OSError, UnicodeDecodeError) as error:
        found.error(here, error.strerror or str(error) if isinstance(error, OSError) else str(error))
        return
    for problem in problems:
        found.warning(here, f"{problem}; it is left out")


def local_keys(provider: JwtProvider) -> KeySet:
    """The keys of a provider that are not to be fetched.

    Raises:
        JwkError: they cannot be used.
        OSError: their file cannot be read.
    """
    from kairos.config.jose import MAX_DOCUMENT, JwkError, KeySet, pem_key, read_set, secret_key

    if provider.secret is not None:
        return KeySet([secret_key(provider.secret, provider.algorithms)])
    if provider.public_key is not None:
        return KeySet([pem_key(provider.public_key, provider.algorithms)])
    if provider.public_key_file is not None:
        return KeySet([pem_key(File(provider.public_key_file).read_text(), provider.algorithms)])
    if provider.jwks_file is None:
        raise JwkError("no key is given")
    with File(provider.jwks_file).open("rb") as file:
        return read_set(file.read(MAX_DOCUMENT + 1), provider.algorithms, shared=True)


def _check_url(provider: JwtProvider, keys: Path, found: Findings) -> None:
    here = (*keys, "jwks_url")
    try:
        url = urlsplit(provider.jwks_url or "")
        host, _ = url.hostname, url.port
    except ValueError as error:
        found.error(here, f"is no address: {error}")
        return
    if url.scheme not in ("https", "http") or not host or re.search(r"[\s\x00-\x20\x7f]", provider.jwks_url or ""):
        found.error(here, "must be https://host/path")
    elif url.username or url.password or url.fragment:
        found.error(here, "must hold no credentials and no '#'")
    elif url.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        found.error(here, "must be https: whoever is between could send keys of its own")
    if provider.jwks_ca_file is not None and not File(provider.jwks_ca_file).is_file():
        found.error((*keys, "jwks_ca_file"), f"there is no file {provider.jwks_ca_file}")


def _check_source(source: TokenSource, keys: Path, found: Findings) -> None:
    name = source.name
    if name is None:
        return
    if not NAME.fullmatch(name):
        found.error((*keys, "name"), f"'{name}' is no name: write a word of letters, digits and -_.")


# ---- revocations


class Revocation(Spec, frozen=True):
    """One line of a list of revoked tokens."""

    jti: str | None = None
    """Of one token."""
    sub: str | None = None
    """All tokens of a subject…"""
    iat: float | None = None
    """…that were issued at this Unix time or before it."""


def read_revocations(path: str) -> list[Revocation]:
    """The list in a file: a JSON object a line; empty lines and those that begin with # are nothing.

    Raises:
        ValueError: a line is none; the text says which.
        OSError: the file cannot be read.
    """
    import msgspec

    read = []
    for number, line in enumerate(File(path).read_bytes().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        try:
            entry = msgspec.json.decode(line, type=Revocation)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"line {number} of {path} is no revocation: {error}") from None
        if (entry.jti is None) == (entry.sub is None) or (entry.iat is not None and entry.sub is None):
            raise ValueError(f'line {number} of {path} must be {{"jti": …}} or {{"sub": …, "iat": …}}')
        read.append(entry)
    return read


def _check_revocations(path: str, keys: Path, found: Findings) -> None:
    try:
        read_revocations(path)
    except OSError as error:
        found.error(keys, f"cannot read {path}: {error.strerror}")
    except ValueError as error:
        found.error(keys, str(error))
