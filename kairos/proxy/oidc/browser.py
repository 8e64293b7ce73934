"""A request as the login flow sees it: over what, by what name, with which of our cookies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.edits import Edits, edit
from kairos.proxy.fields import REQUEST_OWN
from kairos.proxy.oidc import cookies
from kairos.proxy.oidc.provider import Familiar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.openid.flow import Attempt
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.oidc.provider import Opened, Provider

_ATTEMPT = "_login_"


def no_store() -> tuple[bytes, bytes]:
    """Nobody keeps what is about one login."""
    return b"Cache-Control", b"no-store"


def is_secure(x: Exchange, provider: Provider) -> bool:
    """Whether the browser came over TLS, as far as is known or said."""
    return provider.always_secure or x.client_scheme == "https"


class Browser:
    """Who sent the request."""

    def __init__(self, x: Exchange, provider: Provider) -> None:
        self._x = x
        self._provider = provider
        lines = x.header_values(b"cookie")
        self._header = b"; ".join(lines) if lines else None
        self.sent = cookies.parsed(self._header)
        self.secure = is_secure(x, provider)
        self.session_name = cookies.cookie_name(provider.cookie, secure=self.secure)

    def url(self, path: str) -> str:
        """The address of a path of ours, as the browser knows it."""
        given = self._provider.spec.redirect_url
        if given is not None:
            scheme, _, rest = given.partition("://")
            return f"{scheme}://{rest.partition('/')[0]}{path}"
        return f"{'https' if self.secure else 'http'}://{self._x.host}{path}"

    @property
    def names(self) -> set[bytes]:
        """Of our cookies, those that were sent, whether they count here or not."""
        return {name for name in self.sent if self._provider.own_cookies.fullmatch(name)}

    def hidden(self, opened: Opened | None) -> Edits:
        """What the backend does not see: our cookies, of which a copy would be a session. And the token it sees."""
        ours = self.names
        edits = []
        if self._header is not None and ours:
            edits.append(edit("Cookie", cookies.without(self._header, ours), REQUEST_OWN))
        token = None if opened is None else opened.session.tokens.access_token
        if token is not None:
            edits.append(edit("Authorization", f"Bearer {token}", REQUEST_OWN))
        return Edits(edits)

    def remember(self, opened: Opened) -> None:
        """The same Cookie field will come again."""
        if self._header is not None:
            self._provider.make_familiar(self._header, Familiar(self.secure, opened, self.hidden(opened)))

    def session_lines(self, opened: Opened) -> Iterator[str]:
        """Set-Cookie values of a session."""
        left = opened.session.left(self._provider.spec.session, self._provider.wall())
        value = opened.value.decode()
        yield from cookies.set_lines(self.session_name, value, secure=self.secure, max_age=left, sent=self.sent)

    # -- logins under way -----------------------------------------------------------------------------------------

    def _attempt_name(self, state: str) -> str:
        """One cookie for each, so that several tabs can log in side by side."""
        return f"{self.session_name}{_ATTEMPT}{state[:8]}"

    def attempt(self, state: str) -> Attempt | None:
        """The login under way that a callback's state names."""
        return self._provider.open_attempt(self.sent.get(self._attempt_name(state).encode()))

    def attempt_lines(self, attempt: Attempt, most: int) -> Iterator[tuple[bytes, bytes]]:
        """Set-Cookie fields for a new login; where there are too many under way, the others end."""
        prefix = f"{self.session_name}{_ATTEMPT}".encode()
        others = [name.decode("latin-1") for name in self.sent if name.startswith(prefix)]
        for name in others if len(others) >= most else []:
            yield from self._fields(cookies.clear_lines(name, secure=self.secure, sent=self.sent))
        age = int(self._provider.spec.login_timeout)
        name, value = self._attempt_name(attempt.state), self._provider.seal_attempt(attempt)
        yield b"Set-Cookie", cookies.line(name, value, age, secure=self.secure).encode()

    def attempt_over(self, state: str) -> list[tuple[bytes, bytes]]:
        """Set-Cookie fields that end a login."""
        lines = cookies.clear_lines(self._attempt_name(state), secure=self.secure, sent=self.sent)
        return list(self._fields(lines))

    def session_over(self) -> list[tuple[bytes, bytes]]:
        """Set-Cookie fields that end the session."""
        lines = cookies.clear_lines(self.session_name, secure=self.secure, sent=self.sent)
        return list(self._fields(lines))

    @staticmethod
    def _fields(lines: Iterator[str]) -> Iterator[tuple[bytes, bytes]]:
        for text in lines:
            yield b"Set-Cookie", text.encode()
