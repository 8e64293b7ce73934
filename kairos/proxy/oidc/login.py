"""The method `oidc` of authentication: a session's cookie is a credential, and people without one are sent to log in.

    a session           the request is its user's; the backend never sees the cookies
    its token ends soon renewed first, once for all requests that come meanwhile
    none, a page        302 to the provider, with the login's cookie
    none, a script      401

A cookie that is damaged, forged, of an old key, over or ended elsewhere is as good as none.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from kairos.config.oidc import callback_path
from kairos.openid.flow import LoginError, authorization_url, begin, is_navigation, safe_target
from kairos.proxy.exchange import Response
from kairos.proxy.filters.authenticate import Authenticator, Refusal
from kairos.proxy.oidc import cookies
from kairos.proxy.oidc.browser import Browser, is_secure, no_store

if TYPE_CHECKING:
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.identity import Identity
    from kairos.proxy.oidc.provider import Opened, Provider
    from kairos.proxy.site import Services

MAX_ATTEMPTS = 4
"""Logins a browser may have under way; the cookies of older ones are taken away."""


class Login(Authenticator):
    """For the routes that name the provider."""

    def __init__(self, provider: Provider, services: Services, *, sends: bool) -> None:
        self._provider = provider
        self._services = services
        self._callback_path = callback_path(provider.name, provider.spec)
        self._sends = sends
        """Who has no credential is sent to log in."""

    def authenticate(self, x: Exchange) -> Identity | Awaitable[Identity | Refusal | None] | None:
        if self._provider.endings.behind and self._provider.cookie.encode() in (x.header(b"cookie") or b""):
            return self._caught_up(x)
        return self._judge(x)

    async def _caught_up(self, x: Exchange) -> Identity | Refusal | None:
        """Once it is known which sessions ended."""
        try:
            await self._provider.catch_up(self._services)
        except LoginError as error:
            return Refusal(error.kind, error.detail)
        found = self._judge(x)
        return await found if isinstance(found, Awaitable) else found

    def _judge(self, x: Exchange) -> Identity | Awaitable[Identity | Refusal | None] | None:
        secure = is_secure(x, self._provider)
        known = self._provider.familiar(x.header(b"cookie") or b"", secure=secure)
        if known is not None:
            x.add_request_edits(known.edits)
            return known.opened.identity
        browser = Browser(x, self._provider)
        text, opened = self._session(browser)
        x.add_request_edits(browser.hidden(opened))
        if opened is None:
            if self._sends and self._provider.known is None and _waits_for_a_page(x):
                return self._ask_where()
            return None
        spec = self._provider.spec.session
        if opened.session.wants_refresh(spec, self._provider.wall()):
            return self._renewed(x, browser, text, opened)
        return self._welcome(x, browser, text, self._provider.used(text, opened))

    def _session(self, browser: Browser) -> tuple[bytes, Opened | None]:
        text = cookies.joined(browser.sent, browser.session_name)
        if text is None:
            return b"", None
        opened = self._provider.open(text)
        if opened is None or opened.session.over(self._provider.spec.session, self._provider.wall()):
            return text, None
        return text, None if self._provider.ended(opened) else opened

    def _welcome(self, x: Exchange, browser: Browser, text: bytes, opened: Opened) -> Identity:
        if opened.value != text:
            for line in browser.session_lines(opened):
                x.add_response_header("Set-Cookie", line)
            x.add_request_edits(browser.hidden(opened))  # with the token it has now
        else:
            browser.remember(opened)
        return opened.identity

    async def _renewed(self, x: Exchange, browser: Browser, text: bytes, opened: Opened) -> Identity | Refusal | None:
        """With new tokens; with the old ones while they last where the provider cannot be asked."""
        try:
            renewed = await self._provider.renew(self._services, text, opened.session)
        except LoginError as error:
            ends = opened.session.tokens.ends
            if ends is not None and self._provider.wall() < ends:
                return opened.identity
            return Refusal(error.kind, error.detail)
        if renewed is not None and not self._provider.ended(renewed):
            return self._welcome(x, browser, text, renewed)
        for line in cookies.clear_lines(browser.session_name, secure=browser.secure, sent=browser.sent):
            x.add_response_header("Set-Cookie", line)
        return await self._ask_where() if self._sends and _waits_for_a_page(x) else None

    async def _ask_where(self) -> Refusal | None:
        """Where to log in, for missing()."""
        try:
            await self._provider.metadata(self._services)
        except LoginError as error:
            return Refusal(error.kind, error.detail)
        return None

    def withhold(self, x: Exchange) -> None:
        """From a backend, whoever decided; what others changed of the cookies stays changed."""
        ours = Browser(x, self._provider).names
        held = b"; ".join(x.upstream_values(b"cookie"))
        if ours:
            x.set_request_header("Cookie", cookies.without(held, ours))

    def missing(self, x: Exchange) -> str | Response | None:
        metadata = self._provider.known
        if metadata is None or not _waits_for_a_page(x):
            return "Log in with a browser first"
        browser, provider = Browser(x, self._provider), self._provider
        target = safe_target(x.path, x.query_string)
        attempt = begin(target, browser.url(self._callback_path), provider.wall() + provider.spec.login_timeout)
        headers = [(b"Location", authorization_url(metadata, provider.spec, attempt).encode()), no_store()]
        headers += browser.attempt_lines(attempt, MAX_ATTEMPTS)
        return Response(302, b"", headers)

    def challenge(self) -> bytes:
        """A scheme that no browser has a dialogue for."""
        return b'Session realm="kairos"'


def _waits_for_a_page(x: Exchange) -> bool:
    return is_navigation(x.method, x.header(b"sec-fetch-mode"), x.header(b"x-requested-with"), x.header(b"accept"))
