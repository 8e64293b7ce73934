"""Single sign-on for the admin API: code flow with PKCE, state and nonce at one OpenID provider (admin.sso).

What a login under way has to find again is in a cookie of its browser; a code is exchanged once. Who comes back is the
user with this issuer and subject; names are only names, and one that a user with a password has is nobody else's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from kairos.config.discovery import CodeGrant
from kairos.config.jose import read_set
from kairos.config.oidc import OidcProvider, OidcSession
from kairos.control.access.accounts import NAME, DeniedError
from kairos.control.access.logins import EndedThere
from kairos.control.client import NoAnswerError
from kairos.control.commands import CommandError
from kairos.control.oidc import Provider
from kairos.openid.flow import Attempt, Callback, LoginError, authorization_url, begin, end_session_url
from kairos.openid.idtoken import UnknownKeyError, algorithms, id_claims, logout_claims
from kairos.openid.token import TokenError, parse
from kairos.resolver import Resolver
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kairos.config.admin import AdminSso
    from kairos.config.discovery import Granted, Known
    from kairos.control.access.accounts import Accounts

LIFE_S = 600.0
"""Seconds a login may take."""

log = get_logger("users")


@dataclass(frozen=True)
class SignedIn:
    """Somebody the provider knows, and who they are here."""

    user_id: int
    name: str
    id_token: str
    sid: str | None


class SingleSignOn:
    """Follows `admin.sso`; None: there is none."""

    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.time) -> None:
        self._accounts = accounts
        self._clock = clock
        self._resolver: Resolver | None = None
        self._spec: AdminSso | None = None
        self._provider: Provider | None = None

    def apply(self, spec: AdminSso | None) -> None:
        """A configuration is in use."""
        if spec == self._spec:
            return
        self._spec, self._provider = spec, None

    async def close(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()

    @property
    def on(self) -> bool:
        return self._spec is not None

    async def begin(self, redirect_uri: str) -> tuple[str, str]:
        """Where the browser goes, and what it keeps meanwhile. Raises CommandError."""
        spec, provider = self._parts()
        attempt = begin("/", spec.redirect_url or redirect_uri, self._clock() + LIFE_S)
        known = await self._known(provider)
        return authorization_url(known.metadata, provider.spec, attempt), _kept(attempt)

    async def finish(self, query: bytes, kept: str) -> SignedIn:
        """What came back with the browser. Raises CommandError and DeniedError."""
        spec, provider = self._parts()
        known = await self._known(provider)
        attempt = _attempt(kept)
        try:
            code = Callback(query).code(attempt, known.metadata, self._clock())
            claims, id_token = await self._claims(provider, known, code, attempt)
        except LoginError as error:
            raise DeniedError(error.detail) from error
        except TokenError as error:
            log.warning("an ID token was refused", reason=str(error))
            raise DeniedError("the identity provider's answer cannot be trusted; the log says more") from error
        return await self._user(spec, claims, id_token)

    async def _claims(
        self, provider: Provider, known: Known, code: str, attempt: Attempt | None
    ) -> tuple[dict[str, Any], str]:
        assert attempt is not None  # else there is no code
        grant = CodeGrant(code, attempt.verifier, attempt.redirect_uri, attempt.state)
        granted = await provider.exchange(msgspec.json.encode(grant))
        if granted.error == "unavailable":
            raise CommandError("unavailable", "the identity provider does not answer")
        if granted.error is not None or granted.id_token is None:
            raise TokenError(f"was not given: {granted.error}")
        try:
            return self._judged(provider, known, granted, attempt), granted.id_token
        except UnknownKeyError:
            return self._judged(provider, await provider.fresh_keys(), granted, attempt), granted.id_token

    def _judged(self, provider: Provider, known: Known, granted: Granted, attempt: Attempt) -> dict[str, Any]:
        keys = read_set(known.keys.encode(), sorted(algorithms(provider.spec, known.metadata)))
        raw = granted.id_token or ""
        return id_claims(raw, provider.spec, known.metadata, keys, granted, attempt.nonce, self._clock())

    async def _user(self, spec: AdminSso, claims: Mapping[str, Any], id_token: str) -> SignedIn:
        _check_domain(spec, claims)
        name = name_of(spec, claims)
        roles = roles_of(spec, claims)
        if roles is not None and not roles:
            raise DeniedError(f"{name} has none of the groups that may manage this gateway")
        words = {"display_name": _text(claims, "name")[:200], "email": _text(claims, "email")[:320]}
        user_id = await self._accounts.sign_in_elsewhere(
            spec.issuer, str(claims["sub"]), name, words, roles, spec.default_roles, create=spec.create_users
        )
        if user_id is None:
            raise DeniedError(f"{name} is no user of this gateway, or disabled")
        return SignedIn(user_id, name, id_token, _text(claims, "sid")[:255] or None)

    async def goodbye(self, id_token: str | None, here: str) -> str | None:
        """Where a browser goes to end its session at the provider as well; None: nowhere."""
        if self._spec is None or id_token is None or not self._spec.logout_at_provider:
            return None
        spec, provider = self._parts()
        try:
            metadata = (await self._known(provider)).metadata
            if parse(id_token.encode()).claims.get("iss") != metadata.issuer:  # nothing of the provider's before
                return None
        except (CommandError, TokenError):
            return None
        after = here + spec.after_logout if spec.after_logout.startswith("/") else spec.after_logout
        return end_session_url(metadata, spec.client_id, after, id_token)

    async def told_of(self, raw: str) -> EndedThere:
        """What a logout token of the provider ends. Raises CommandError."""
        _, provider = self._parts()
        known = await self._known(provider)
        try:
            try:
                claims = self._ending(provider, known, raw)
            except UnknownKeyError:
                claims = self._ending(provider, await provider.fresh_keys(), raw)
        except TokenError as error:
            log.warning("a logout token was refused", reason=str(error))
            raise CommandError("bad", f"the logout token {error}") from error
        at = float(claims["iat"]) + provider.spec.leeway
        return EndedThere(known.metadata.issuer, claims.get("sub"), claims.get("sid"), at)

    def _ending(self, provider: Provider, known: Known, raw: str) -> dict[str, Any]:
        keys = read_set(known.keys.encode(), sorted(algorithms(provider.spec, known.metadata)))
        return logout_claims(raw, provider.spec, known.metadata, keys, self._clock())

    def _parts(self) -> tuple[AdminSso, Provider]:
        if self._spec is None:
            raise CommandError("unknown", "there is no single sign-on; see admin.sso")
        if self._provider is None:
            self._resolver = self._resolver or Resolver()
            self._provider = Provider("admin", _as_client(self._spec), self._resolver, time.monotonic)
        return self._spec, self._provider

    async def _known(self, provider: Provider) -> Known:
        try:
            return await provider.known()
        except (NoAnswerError, ValueError) as error:
            raise CommandError("unavailable", "the identity provider does not answer") from error


def name_of(spec: AdminSso, claims: Mapping[str, Any]) -> str:
    """Raises DeniedError where no claim is one."""
    for claim in (spec.name_claim, "email", "sub"):
        name = _text(claims, claim).lower()
        if NAME.fullmatch(name):
            return name
    raise DeniedError("the identity provider gives no name that may be one here; see admin.sso.name_claim")


def roles_of(spec: AdminSso, claims: Mapping[str, Any]) -> list[str] | None:
    """None: those that the user has here."""
    if not spec.roles:
        return None
    given = claims.get(spec.roles_claim)
    values = given if isinstance(given, list) else [given]
    found = {role for value in values if isinstance(value, str) for role in spec.roles.get(value, ())}
    return sorted(found | set(spec.default_roles))


def _check_domain(spec: AdminSso, claims: Mapping[str, Any]) -> None:
    if not spec.allowed_domains:
        return
    domain = _text(claims, "email").rpartition("@")[2].lower()
    if domain not in {one.lower() for one in spec.allowed_domains} or claims.get("email_verified") is False:
        raise DeniedError("this address of mail may not manage this gateway; see admin.sso.allowed_domains")


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value.replace("\0", "") if isinstance(value, str) else ""


def _as_client(spec: AdminSso) -> OidcProvider:
    same = {name: getattr(spec, name) for name in ("issuer", "client_id", "client_secret", "token_auth", "scopes")}
    return OidcProvider(session=OidcSession([]), ca_file=spec.ca_file, **same)


def _kept(attempt: Attempt) -> str:
    return msgspec.json.encode(attempt).hex()


def _attempt(kept: str) -> Attempt | None:
    try:
        return msgspec.json.decode(bytes.fromhex(kept), type=Attempt)
    except (ValueError, msgspec.MsgspecError):
        return None
