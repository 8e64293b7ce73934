"""A provider as one worker has it: what the control process knows of it, and the sessions seen lately.

Sessions live in cookies. What is kept here of them only saves work: opening a cookie, and asking twice for a refresh.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from kairos._speedups import cells
from kairos.config.discovery import CodeGrant, Ending, Endings, Granted, Known, RefreshGrant
from kairos.config.jose import JwkError, KeySet, read_set
from kairos.config.oidc import cookie_name, own_cookies
from kairos.openid.flow import LoginError
from kairos.openid.idtoken import UnknownKeyError, algorithms, id_claims, logout_claims, session_claims
from kairos.openid.token import TokenError
from kairos.proxy.identity import Identity
from kairos.proxy.oidc import endings
from kairos.proxy.oidc.sealing import Sealer
from kairos.proxy.oidc.session import Session, Tokens, attempt_of, encode, session_of
from kairos.proxy.site import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos._speedups.cells import Page
    from kairos.config.discovery import Metadata
    from kairos.config.oidc import OidcProvider
    from kairos.openid.flow import Attempt
    from kairos.proxy.edits import Edits
    from kairos.proxy.site import Services

_Kind = TypeVar("_Kind")
FRESH = 600.0
"""Seconds for which what the control process said of the provider is not asked for again."""
MAX_SEEN = 4096
"""Sessions kept opened."""
MAX_COOKIES = 7000
"""Bytes of a sealed session: a Cookie line has to fit into limits.line_bytes with what else there is."""
NO_ANSWER = "The identity provider cannot be asked at the moment"


class Opened:
    """A session, who it makes of a request, and the cookie's value it now has."""

    __slots__ = ("good_until", "identity", "marks", "session", "value")

    def __init__(self, session: Session, value: bytes, spec: OidcProvider) -> None:
        self.session = session
        self.value = value
        self.good_until = session.good_until(spec.session)
        self.marks = endings.marks_of(session)
        self.identity = Identity(session.subject, "oidc", session.claims, realm=spec.issuer, key=session)


class Familiar(NamedTuple):
    """A Cookie field seen before, and what came of it."""

    secure: bool
    opened: Opened
    edits: Edits
    """What is done to such a request."""


class Provider:
    """One of the section `oidc`; kept over reloads that leave its entry alone."""

    def __init__(
        self, name: str, spec: OidcProvider, page: Page, worker: int, wall: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self.spec = spec
        self.cookie = cookie_name(name, spec)
        self.own_cookies = own_cookies([self.cookie])
        self.always_secure = spec.session.secure == "always"
        self.wall = wall
        self.endings = endings.Endings(page)
        self._page = page
        self._worker = worker
        self._sealer = Sealer(spec.session.secrets, "oidc")
        self._metadata: Metadata | None = None
        self._keys: KeySet | None = None
        self._asked = float("-inf")
        self._seen: dict[bytes, Opened] = {}
        self._familiar: dict[bytes, Familiar] = {}
        self._revoking: set[asyncio.Task[None]] = set()
        self._renewing: dict[bytes, asyncio.Task[Opened | None]] = {}

    # -- what the control process knows ---------------------------------------------------------------------------

    async def metadata(self, services: Services) -> Metadata:
        """What the provider says of itself.

        Raises:
            LoginError: nobody knows at the moment.
        """
        if self.known is None:
            await self._learn(services, "GET", "")
        assert self._metadata is not None
        return self._metadata

    async def _learn(self, services: Services, method: str, path: str) -> None:
        known = await self._control(services, method, path, b"", Known)
        try:
            self._keys = read_set(known.keys.encode(), sorted(algorithms(self.spec, known.metadata)))
        except JwkError as error:
            if any(not name.startswith("HS") for name in algorithms(self.spec, known.metadata)):
                raise LoginError("auth_unavailable", NO_ANSWER, f"JWK set {error}") from error
            self._keys = KeySet([])
        self._metadata, self._asked = known.metadata, time.monotonic()

    async def _control(self, services: Services, method: str, path: str, body: bytes, kind: type[_Kind]) -> _Kind:
        try:
            answer = await services.control(method, f"/oidc/{self.name}{path}", body)
            return msgspec.json.decode(answer.body, type=kind)
        except (ControlError, msgspec.MsgspecError) as error:
            raise LoginError("auth_unavailable", NO_ANSWER, str(error)) from error

    # -- tokens ---------------------------------------------------------------------------------------------------

    async def redeem(self, services: Services, attempt: Attempt, code: str) -> Session:
        """A code for a session.

        Raises:
            LoginError: the provider does not give it, or gives what must not be believed.
        """
        grant = CodeGrant(code, attempt.verifier, attempt.redirect_uri, attempt.state)
        granted = await self._control(services, "POST", "/code", msgspec.json.encode(grant), Granted)
        _raise(granted)
        if granted.id_token is None:
            raise LoginError("login_failed", "The identity provider sent no ID token", cause="token")
        claims = await self._believed(services, granted.id_token, granted, attempt.nonce)
        now = self.wall()
        return Session(claims["sub"], claims, now, now, self._tokens(granted, None, now))

    async def _believed(self, services: Services, raw: str, granted: Granted, nonce: str | None) -> dict[str, Any]:
        """The claims for a session."""

        def judge(metadata: Metadata, keys: KeySet) -> dict[str, Any]:
            return id_claims(raw, self.spec, metadata, keys, granted, nonce, self.wall())

        try:
            return session_claims(await self._judged(services, judge), granted.userinfo)
        except TokenError as error:
            message = "The identity provider's ID token is not valid"
            raise LoginError("login_failed", message, str(error), "token") from error

    async def _judged(self, services: Services, judge: Callable[[Metadata, KeySet], dict[str, Any]]) -> dict[str, Any]:
        """A token's claims; the provider's keys are looked at again where they do not have the token's."""
        metadata = await self.metadata(services)
        assert self._keys is not None
        try:
            return judge(metadata, self._keys)
        except UnknownKeyError:
            await self._learn(services, "POST", "/keys")
            return judge(metadata, self._keys)

    def _tokens(self, granted: Granted, before: Tokens | None, now: float) -> Tokens:
        return Tokens(
            granted.refresh_token or (before.refresh_token if before else None),
            granted.access_token if self.spec.forward_access_token else None,
            granted.id_token or (before.id_token if before else None),
            now,
            now + granted.expires_in if granted.expires_in is not None else None,
        )

    # -- sessions -------------------------------------------------------------------------------------------------

    def sealed(self, session: Session) -> str:
        """As it stands in cookies. What does not fit goes without its ID token, which only logging out wants.

        Raises:
            LoginError: it has too many claims all the same.
        """
        text = self._sealer.seal(encode(session), self.name)
        if len(text) > MAX_COOKIES and session.tokens.id_token is not None:
            tokens = msgspec.structs.replace(session.tokens, id_token=None)
            return self.sealed(msgspec.structs.replace(session, tokens=tokens))
        if len(text) > MAX_COOKIES:
            message = "The identity provider says too much of this user to fit into cookies"
            raise LoginError("login_failed", message, cause="token")
        return text

    def open(self, text: bytes) -> Opened | None:
        """The session of a cookie's value, whether over or not."""
        opened = self._seen.get(text)
        if opened is None:
            data = self._sealer.open(text, self.name)
            session = None if data is None else session_of(data)
            if session is None:
                return None
            opened = self._keep(text, Opened(session, text, self.spec))
        return opened

    def _keep(self, text: bytes, opened: Opened) -> Opened:
        """Remember what a cookie's value stands for now, be it another value."""
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[text] = opened
        return opened

    def familiar(self, header: bytes, *, secure: bool) -> Familiar | None:
        """What is known of a whole Cookie field: browsers send the same one again and again."""
        known = self._familiar.get(header)
        return known if known is not None and known.secure is secure and self.wall() < known.opened.good_until else None

    def make_familiar(self, header: bytes, known: Familiar) -> None:
        """Remember what came of a Cookie field."""
        if len(self._familiar) >= MAX_SEEN:
            self._familiar.clear()
        self._familiar[header] = known

    def rewrite(self, text: bytes, session: Session) -> Opened:
        """What stood in a cookie is this session from now on.

        Raises:
            LoginError: see sealed().
        """
        opened = Opened(session, self.sealed(session).encode(), self.spec)
        self._keep(opened.value, opened)
        return self._keep(text, opened)

    def used(self, text: bytes, opened: Opened) -> Opened:
        """Write down that the session was used, from time to time."""
        now = self.wall()
        if opened.value != text or not opened.session.wants_writing(self.spec.session, now):
            return opened
        return self.rewrite(text, msgspec.structs.replace(opened.session, used=now))

    async def renew(self, services: Services, text: bytes, session: Session) -> Opened | None:
        """The session with new tokens: one request, however many wait for it. None: the provider ended it.

        Raises:
            LoginError: the provider cannot be asked, or gives what must not be believed.
        """
        task = self._renewing.get(text)
        if task is None:
            task = asyncio.ensure_future(self._renewed(services, text, session))
            self._renewing[text] = task
            task.add_done_callback(lambda _: self._renewing.pop(text, None))
            task.add_done_callback(self._count_renewal)
        return await asyncio.shield(task)

    def _count_renewal(self, task: asyncio.Task[Opened | None]) -> None:
        if task.cancelled() or task.exception() is not None:
            self.count(cells.W_OIDC_RENEWAL_FAILED)
        else:
            self.count(cells.W_OIDC_RENEWED if task.result() is not None else cells.W_OIDC_NOT_RENEWED)

    async def _renewed(self, services: Services, text: bytes, session: Session) -> Opened | None:
        grant = RefreshGrant(session.tokens.refresh_token or "")
        granted = await self._control(services, "POST", "/refresh", msgspec.json.encode(grant), Granted)
        if granted.error == "unavailable":
            raise LoginError("auth_unavailable", NO_ANSWER)
        if granted.error is not None:
            return None
        claims = session.claims
        if granted.id_token is not None:
            claims = await self._believed(services, granted.id_token, granted, None)
            if claims["sub"] != session.subject:
                message = "The identity provider renewed the session as somebody else's"
                raise LoginError("login_failed", message, cause="token")
            if "sid" in session.claims:  # by which it may end; not every provider says it again
                claims.setdefault("sid", session.claims["sid"])
        now = self.wall()
        renewed = Session(session.subject, claims, session.began, now, self._tokens(granted, session.tokens, now))
        return self.rewrite(text, renewed)

    def revoke_soon(self, services: Services, session: Session) -> None:
        """Tell the provider that the refresh token is not needed any more; whether it hears it, nobody waits for."""
        if session.tokens.refresh_token is not None:
            task = asyncio.ensure_future(self._revoke(services, session))
            self._revoking.add(task)
            task.add_done_callback(self._revoking.discard)

    async def _revoke(self, services: Services, session: Session) -> None:
        assert session.tokens.refresh_token is not None
        grant = msgspec.json.encode(RefreshGrant(session.tokens.refresh_token))
        try:
            await self._control(services, "POST", "/revoke", grant, Granted)
        except LoginError:
            return

    # -- sessions that end before their time ----------------------------------------------------------------------

    def ended(self, opened: Opened) -> bool:
        """Whether it is one of them, as far as is known here."""
        return self.endings.has(opened.marks, opened.session.began)

    async def catch_up(self, services: Services) -> None:
        """Learn which sessions ended.

        Raises:
            LoginError: nobody says.
        """

        async def ask(body: bytes) -> Endings:
            return await self._control(services, "POST", "/ended", body, Endings)

        for _ in range(2):  # what was asked before this request came may be too old for it
            if self.endings.behind:
                await self.endings.catch_up(ask, self.wall())
                self._familiar.clear()

    async def end(self, services: Services, who: str, jti: str = "") -> bool:
        """End sessions, everywhere. False: this token did so before.

        Raises:
            LoginError: the control process cannot be told.
        """
        now = self.wall()
        ending = Ending(who, now, now + self.spec.session.lifetime, jti)
        return await self._control(services, "POST", "/end", msgspec.json.encode(ending), bool)

    async def told_of(self, services: Services, raw: str) -> bool:
        """End what a logout token names: one session, or all of a user. False: it did so before.

        Raises:
            LoginError: it is not the provider's, or nobody can tell now.
        """

        def judge(metadata: Metadata, keys: KeySet) -> dict[str, Any]:
            return logout_claims(raw, self.spec, metadata, keys, self.wall())

        try:
            claims = await self._judged(services, judge)
        except TokenError as error:
            raise LoginError("login_failed", f"The logout token {error}", cause="token") from error
        who = endings.mark(*(("sid", claims["sid"]) if "sid" in claims else ("sub", claims["sub"])))
        return await self.end(services, who, endings.mark("jti", claims["jti"]))

    # -- counting -------------------------------------------------------------------------------------------------

    def count(self, cell: int) -> None:
        """One more, of this worker."""
        self._page.add(self._worker + cell, 1)

    # -- logins under way -----------------------------------------------------------------------------------------

    def seal_attempt(self, attempt: Attempt) -> str:
        """As it stands in the browser's cookie until the callback."""
        return self._sealer.seal(encode(attempt), f"{self.name} login")

    def open_attempt(self, text: bytes | None) -> Attempt | None:
        """What seal_attempt() made."""
        data = None if text is None else self._sealer.open(text, f"{self.name} login")
        return None if data is None else attempt_of(data)

    @property
    def known(self) -> Metadata | None:
        """The metadata, as long as they need not be asked for."""
        return None if time.monotonic() - self._asked > FRESH else self._metadata


def _raise(granted: Granted) -> None:
    if granted.error == "unavailable":
        raise LoginError("auth_unavailable", NO_ANSWER)
    if granted.error == "replayed":
        raise LoginError("login_failed", "This login was completed already: begin anew", cause="state")
    if granted.error is not None:
        message = "The identity provider did not accept the login: begin anew"
        raise LoginError("login_failed", message, granted.error, "code")
