"""The paths of a provider that the gateway answers itself: where logins come back to, and where they end: for the
browser, and for the provider, which tells of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kairos._speedups import cells
from kairos.config.oidc import backchannel_logout_path, callback_path, logout_path
from kairos.openid.flow import Callback, LoginError, end_session_url, form_value
from kairos.proxy.exchange import Handler, Response
from kairos.proxy.oidc import cookies
from kairos.proxy.oidc.browser import Browser, no_store
from kairos.proxy.oidc.provider import Opened, Provider
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from kairos.config.model import Config, Method
    from kairos.openid.flow import Cause
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.oidc.session import Session
    from kairos.proxy.site import Services

log = get_logger("oidc")
FAILURES: dict[Cause, int] = {
    "state": cells.W_OIDC_STATE, "denied": cells.W_OIDC_DENIED, "answer": cells.W_OIDC_ANSWER,
    "code": cells.W_OIDC_CODE, "token": cells.W_OIDC_TOKEN, "unavailable": cells.W_OIDC_UNAVAILABLE,
}  # fmt: skip
MAX_TOKEN = 16_384
"""Bytes of the form that a logout token comes in."""
FORM = b"application/x-www-form-urlencoded"


def provider_of(name: str, config: Config, services: Services) -> Provider:
    """The provider of this name, the same over reloads that leave its entry alone."""
    spec = config.oidc[name]
    board = services.board
    worker = board.worker_block(services.slot)
    return services.kept(("oidc", name, msgspec.json.encode(spec)), lambda: Provider(name, spec, board.page, worker))


def endpoints(config: Config, services: Services) -> Iterator[tuple[str, list[Method], Handler]]:
    """Path, methods and handler of what the gateway answers for its providers."""
    for name, spec in config.oidc.items():
        provider = provider_of(name, config, services)
        yield callback_path(name, spec), ["GET"], LoginCallback(provider, services)
        yield logout_path(name, spec), ["GET", "POST"], Logout(provider, services)
        yield backchannel_logout_path(name, spec), ["POST"], BackchannelLogout(provider, services)


class LoginCallback(Handler):
    """A browser comes back from the provider."""

    def __init__(self, provider: Provider, services: Services) -> None:
        self._provider = provider
        self._services = services

    def handle(self, x: Exchange) -> Awaitable[Response | None] | None:
        if x.method != "GET":  # a HEAD would use the code up
            x.fail_as("method_not_allowed", None, [(b"Allow", b"GET")])
            return None
        return self._complete(x)

    async def _complete(self, x: Exchange) -> Response | None:
        browser = Browser(x, self._provider)
        state = ""
        try:
            callback = Callback(x.query_string)
            state = callback.state
            attempt = browser.attempt(state)
            metadata = await self._provider.metadata(self._services)
            code = callback.code(attempt, metadata, self._provider.wall())
            assert attempt is not None
            session = await self._provider.redeem(self._services, attempt, code)
            lines = self._cookies(browser, session)
        except LoginError as error:
            self._provider.count(FAILURES[error.cause])
            if not x.finished:
                log.info("login failed", provider=self._provider.name, detail=error.detail, reason=error.reason)
                x.fail_as(error.kind, error.detail, [no_store(), *browser.attempt_over(state)])
            return None
        self._provider.count(cells.W_OIDC_LOGINS)
        headers = [(b"Location", attempt.target.encode()), no_store(), *browser.attempt_over(state), *lines]
        return Response(303, b"", headers)

    def _cookies(self, browser: Browser, session: Session) -> list[tuple[bytes, bytes]]:
        value = self._provider.sealed(session).encode()
        opened = Opened(session, value, self._provider.spec)
        return [(b"Set-Cookie", line.encode()) for line in browser.session_lines(opened)]


class Logout(Handler):
    """A browser wants no session any more: here, and at the provider where it knows how."""

    def __init__(self, provider: Provider, services: Services) -> None:
        self._provider = provider
        self._services = services

    def handle(self, x: Exchange) -> Awaitable[Response | None] | None:
        if x.header(b"sec-fetch-site") == b"cross-site":
            x.fail_as("forbidden", "Another site may not log users out", [no_store()])
            return None
        return self._log_out(x)

    async def _log_out(self, x: Exchange) -> Response:
        browser = Browser(x, self._provider)
        text = cookies.joined(browser.sent, browser.session_name)
        opened = None if text is None else self._provider.open(text)
        headers = [no_store(), *browser.session_over()]
        if opened is not None:
            self._provider.count(cells.W_OIDC_LOGOUTS)
            self._provider.revoke_soon(self._services, opened.session)
            await self._end_copies(opened)
        if x.header(b"sec-fetch-mode") not in (None, b"navigate"):
            return Response(204, b"", headers)
        location = await self._goodbye(browser, None if opened is None else opened.session)
        return Response(303, b"", [(b"Location", location.encode()), *headers])

    async def _end_copies(self, opened: Opened) -> None:
        """Whoever kept the cookie keeps nothing. The browser loses it even where nobody can be told."""
        *_, own = opened.marks
        try:
            await self._provider.end(self._services, own)
        except LoginError as error:
            log.warning("copies of a session go on", provider=self._provider.name, reason=error.reason)

    async def _goodbye(self, browser: Browser, session: Session | None) -> str:
        """Where the browser goes now."""
        spec = self._provider.spec
        after = browser.url(spec.after_logout) if spec.after_logout.startswith("/") else spec.after_logout
        if not spec.logout_at_provider or session is None:
            return after
        try:
            metadata = await self._provider.metadata(self._services)
        except LoginError:
            return after
        return end_session_url(metadata, spec.client_id, after, session.tokens.id_token) or after


class BackchannelLogout(Handler):
    """The provider says that sessions ended (OpenID Connect Back-Channel Logout 1.0 section 2.8)."""

    def __init__(self, provider: Provider, services: Services) -> None:
        self._provider = provider
        self._services = services

    def handle(self, x: Exchange) -> Response | Awaitable[Response | None]:
        if (x.header(b"content-type") or b"").partition(b";")[0].strip().lower() != FORM:
            return self._refused("The token comes in a form")
        return self._end(x)

    async def _end(self, x: Exchange) -> Response | None:
        try:
            raw = form_value(await x.read(MAX_TOKEN), "logout_token")
            new = bool(raw) and await self._provider.told_of(self._services, raw)
        except ValueError:
            return self._refused("The form is too large")
        except LoginError as error:
            if error.kind == "auth_unavailable":
                x.fail_as(error.kind, error.detail, [no_store()])
                return None
            return self._refused(error.detail)
        if not new:
            return self._refused("The token was used before" if raw else "There is no logout_token in the form")
        self._provider.count(cells.W_OIDC_ENDED)
        return Response(200, b"", [no_store()])

    def _refused(self, why: str) -> Response:
        self._provider.count(cells.W_OIDC_NOT_ENDED)
        log.warning("a logout of the provider is refused", provider=self._provider.name, reason=why)
        body = msgspec.json.encode({"error": "invalid_request", "error_description": why})
        return Response(400, body, [(b"Content-Type", b"application/json"), no_store()])
