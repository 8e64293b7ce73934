"""Login at an OpenID provider: the section `oidc`, one entry a provider."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from kairos.config.shared_secrets import SECRET_BYTES, check_secrets
from kairos.config.spec import Seconds, Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kairos.config.problems import Findings, Path

SigningAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")
_OWN_PARAMS = {
    "response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
    "code_challenge_method", "request", "request_uri",
}  # fmt: skip


class OidcSession(Spec, frozen=True):
    """The session a login begins: kept in encrypted cookies of the browser, nowhere else."""

    secrets: list[str]
    """Keys to the cookies, 32 bytes or more each: the first one locks, all unlock. To change it, put a new one in front
    and take the old one away once `lifetime` is over."""
    idle: Seconds = 3600.0
    """Ends when no request came for so long; kept to a tenth."""
    lifetime: Annotated[float, Meta(gt=0, le=31_536_000)] = 43_200.0
    """Ends so long after the login, whatever happens."""
    refresh_before: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    """Where the provider gave a refresh token: the session is renewed with it so long before its access token ends, and
    is over when the provider refuses."""
    cookie: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Name of the cookie, by default `kairos_` and the provider's name; over https `__Host-` stands before it."""
    secure: Literal["auto", "always"] = "auto"
    """`always`: also where the gateway itself is reached over http, because TLS ends before it."""


class OidcProvider(Spec, frozen=True):
    """A provider, and the gateway as its client."""

    issuer: str
    """As the provider writes it; `/.well-known/openid-configuration` below it says the rest."""
    client_id: str
    session: OidcSession
    client_secret: str | None = None
    """None for a public client, which PKCE alone protects."""
    token_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """How the gateway shows the secret to the token endpoint."""
    scopes: list[str] = field(default_factory=lambda: ["openid", "profile", "email"])
    """`offline_access` makes many providers give a refresh token."""
    algorithms: list[SigningAlgorithm] = field(default_factory=lambda: ["RS256", "PS256", "ES256", "EdDSA"])
    """Of signatures of ID tokens, as far as the provider says it uses them. HS* sign with client_secret."""
    authorize_params: dict[str, str] = field(default_factory=dict)
    """More parameters of the authorization request, such as `prompt`, `acr_values` or `max_age`."""
    userinfo: bool = False
    """Ask the userinfo endpoint for claims as well."""
    leeway: Annotated[float, Meta(ge=0, le=600)] = 30.0
    """Seconds by which the clocks may differ."""
    callback_path: str | None = None
    """Where the provider sends browsers back to, by default `/oauth2/<name>/callback`."""
    redirect_url: str | None = None
    """Whole address of the callback, where the one browsers use cannot be told from the request."""
    login_timeout: Seconds = 600.0
    """A login has to be over by then."""
    logout_path: str | None = None
    """Where browsers log out, by default `/oauth2/<name>/logout`."""
    backchannel_logout_path: str | None = None
    """Where the provider says that sessions ended there (OpenID Connect Back-Channel Logout), by default
    `/oauth2/<name>/backchannel-logout`."""
    share_endings: bool = False
    """Tell other gateways through the Redis of the section `redis` which sessions ended before their time."""
    logout_at_provider: bool = True
    """End the session at the provider too, where it knows how (RP-initiated logout)."""
    after_logout: str = "/"
    """Path, or address known to the provider, where a browser ends up."""
    forward_access_token: bool = False
    """Send the access token to the backend, as Authorization: Bearer. The cookie then holds it as well."""
    ca_file: str | None = None
    """PEM file of the authorities to trust for the provider instead of the system's."""


def callback_path(name: str, provider: OidcProvider) -> str:
    """Where the provider sends browsers back to."""
    return provider.callback_path or f"/oauth2/{name}/callback"


def logout_path(name: str, provider: OidcProvider) -> str:
    """Where browsers log out."""
    return provider.logout_path or f"/oauth2/{name}/logout"


def backchannel_logout_path(name: str, provider: OidcProvider) -> str:
    """Where the provider says that sessions ended there."""
    return provider.backchannel_logout_path or f"/oauth2/{name}/backchannel-logout"


def cookie_name(name: str, provider: OidcProvider) -> str:
    """Of the session's cookie, without what stands before it over https."""
    return provider.session.cookie or f"kairos_{name}"


def own_cookies(names: Sequence[str]) -> re.Pattern[bytes]:
    """What matches the names of all cookies that logins with these cookie names make: sessions, their further pieces,
    and logins under way."""
    either = "|".join(map(re.escape, names))
    return re.compile(rf"(?:__Host-)?(?:{either})(?:_[0-9]|_login_.*)?".encode())


def paths(providers: dict[str, OidcProvider]) -> list[str]:
    """What the gateway answers itself."""
    own = (callback_path, logout_path, backchannel_logout_path)
    return [path(name, provider) for name, provider in providers.items() for path in own]


def check(providers: dict[str, OidcProvider], keys: Path, found: Findings, *, insecure_dev: bool = False) -> None:
    """What its types cannot say."""
    for name, provider in providers.items():
        here = (*keys, name)
        if not _NAME.fullmatch(name):
            found.error(here, f"'{name}' is no name for a provider: up to 32 of a-z, 0-9, '-' and '_'")
        _check_addresses(name, provider, here, found)
        _check_client(provider, here, found)
        check_secrets(provider.session.secrets, (*here, "session", "secrets"), found, insecure_dev=insecure_dev)
        if provider.session.idle > provider.session.lifetime:
            found.warning((*here, "session", "idle"), "is longer than the session's lifetime, so it never ends one")
    names = [cookie_name(name, provider) for name, provider in providers.items()]
    for at, (name, cookie) in enumerate(zip(providers, names, strict=True)):
        if any(own_cookies([cookie]).fullmatch(other.encode()) for other in names[:at] + names[at + 1 :]):
            found.error(
                (*keys, name), f"its cookie {cookie} is one of another provider's: give it a name in session.cookie"
            )
    taken = paths(providers)
    if len(set(taken)) < len(taken):
        found.error(keys, "every callback_path, logout_path and backchannel_logout_path must be another one")


def _check_addresses(name: str, provider: OidcProvider, keys: Path, found: Findings) -> None:
    problem = _url_problem(provider.issuer)
    if problem or "?" in provider.issuer or "#" in provider.issuer:
        found.error((*keys, "issuer"), problem or "an issuer has no query and no fragment")
    if provider.redirect_url is not None:
        problem = _url_problem(provider.redirect_url)
        if problem:
            found.error((*keys, "redirect_url"), problem)
        elif urlsplit(provider.redirect_url).path != callback_path(name, provider):
            found.error((*keys, "redirect_url"), f"its path must be callback_path, {callback_path(name, provider)}")
    for key in ("callback_path", "logout_path", "backchannel_logout_path"):
        path = getattr(provider, key)
        if path is not None and (not _PATH.fullmatch(path) or "//" in path or "/." in path):
            found.error((*keys, key), "must be a literal path that starts with '/'")
    after = provider.after_logout
    if not (_PATH.fullmatch(after) and not after.startswith("//")) and _url_problem(after):
        found.error((*keys, "after_logout"), "must be a path, or an address that starts with https://")


def _url_problem(text: str) -> str | None:
    """Tokens and secrets go there: only loopback may do without TLS."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return f"'{text}' is no address"
    if parts.scheme == "https" and host and "@" not in parts.netloc:
        return None
    if parts.scheme == "http" and (host in ("localhost", "::1") or host.startswith("127.")):
        return None
    return f"'{text}' must be an https:// address (http:// is for loopback only)"


def _check_client(provider: OidcProvider, keys: Path, found: Findings) -> None:
    if not provider.client_id:
        found.error((*keys, "client_id"), "must not be empty")
    if provider.client_secret == "":
        found.error((*keys, "client_secret"), "must not be empty: leave it out for a public client")
    if "openid" not in provider.scopes:
        found.error((*keys, "scopes"), "must have 'openid' among them, or there is no ID token")
    if not provider.algorithms:
        found.error((*keys, "algorithms"), "must name at least one algorithm")
    symmetric = [name for name in provider.algorithms if name.startswith("HS")]
    if symmetric and len((provider.client_secret or "").encode()) < SECRET_BYTES:
        message = f"{symmetric[0]} signs with client_secret, which must have {SECRET_BYTES} bytes for that"
        found.error((*keys, "algorithms"), message)
    for name in _OWN_PARAMS.intersection(provider.authorize_params):
        found.error((*keys, "authorize_params", name), "is set by the gateway itself")
