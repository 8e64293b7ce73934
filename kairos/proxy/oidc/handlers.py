"""The two paths of a provider that the gateway answers itself: where logins come back to, and where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kairos.config.oidc import callback_path, logout_path
from kairos.proxy.exchange import Handler, Response
from kairos.proxy.oidc import cookies
from kairos.proxy.oidc.browser import Browser, no_store
from kairos.proxy.oidc.flow import Callback, LoginError, with_query
from kairos.proxy.oidc.provider import Opened, Provider
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from kairos.config.model import Config, Method
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.oidc.session import Session
    from kairos.proxy.site import Services

log = get_logger("oidc")


def provider_of(name: str, config: Config, services: Services) -> Provider:
    """The provider of this name, the same over reloads that leave its entry alone."""
    spec = config.oidc[name]
    return services.kept(("oidc", name, msgspec.json.encode(spec)), lambda: Provider(name, spec))


def endpoints(config: Config, services: Services) -> Iterator[tuple[str, list[Method], Handler]]:
    """Path, methods and handler of what the gateway answers for its providers."""
    for name, spec in config.oidc.items():
        provider = provider_of(name, config, services)
        yield callback_path(name, spec), ["GET"], LoginCallback(provider, services)
        yield logout_path(name, spec), ["GET", "POST"], Logout(provider, services)


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
            if not x.finished:
                log.info("login failed", provider=self._provider.name, detail=error.detail, reason=error.reason)
                x.fail_as(error.kind, error.detail, [no_store(), *browser.attempt_over(state)])
            return None
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
            self._provider.revoke_soon(self._services, opened.session)
        if x.header(b"sec-fetch-mode") not in (None, b"navigate"):
            return Response(204, b"", headers)
        location = await self._goodbye(browser, None if opened is None else opened.session)
        return Response(303, b"", [(b"Location", location.encode()), *headers])

    async def _goodbye(self, browser: Browser, session: Session | None) -> str:
        """Where the browser goes now (OpenID Connect RP-Initiated Logout 1.0 section 2)."""
        spec = self._provider.spec
        after = browser.url(spec.after_logout) if spec.after_logout.startswith("/") else spec.after_logout
        if not spec.logout_at_provider or session is None:
            return after
        try:
            endpoint = (await self._provider.metadata(self._services)).end_session_endpoint
        except LoginError:
            return after
        if endpoint is None:
            return after
        query = {"client_id": spec.client_id, "post_logout_redirect_uri": after}
        if session.tokens.id_token is not None:
            query["id_token_hint"] = session.tokens.id_token
        return with_query(endpoint, query)
