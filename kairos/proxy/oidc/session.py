"""What a session holds, and when it is over. All times are seconds since 1970: sessions outlive processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kairos.openid.flow import Attempt

if TYPE_CHECKING:
    from kairos.config.oidc import OidcSession

USED_STEP = 10
"""A session's last use is written down when a tenth of its idle time went by, not with every response."""


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """What the provider gave for the session."""

    refresh_token: str | None
    access_token: str | None
    """Kept only where it is sent to the backend."""
    id_token: str | None
    """Kept for logging out at the provider."""
    since: float
    """When it gave them."""
    ends: float | None
    """When the access token ends; None: the provider did not say."""


class Session(msgspec.Struct, frozen=True, array_like=True):
    """A browser's login."""

    subject: str
    claims: dict[str, Any]
    began: float
    used: float
    """When it was last written to the cookie."""
    tokens: Tokens

    def over(self, spec: OidcSession, now: float) -> bool:
        """Idle for too long, too old, or from a future that a wrong clock made."""
        return not self.used - 300 <= now < min(self.used + spec.idle, self.began + spec.lifetime)

    def wants_refresh(self, spec: OidcSession, now: float) -> bool:
        """The access token ends soon, and there is a way to get another one. Not in the first half of its life."""
        tokens = self.tokens
        if tokens.refresh_token is None or tokens.ends is None:
            return False
        return now >= self._refresh_at(spec, tokens.ends)

    def wants_writing(self, spec: OidcSession, now: float) -> bool:
        """Its last use is long enough ago to be written down."""
        return now - self.used > spec.idle / USED_STEP

    def good_until(self, spec: OidcSession) -> float:
        """Until when nothing of the above is to be looked at."""
        ends = [self.began + spec.lifetime, self.used + spec.idle / USED_STEP]
        if self.tokens.refresh_token is not None and self.tokens.ends is not None:
            ends.append(self._refresh_at(spec, self.tokens.ends))
        return min(ends)

    def _refresh_at(self, spec: OidcSession, ends: float) -> float:
        return ends - min(spec.refresh_before, (ends - self.tokens.since) / 2)

    def left(self, spec: OidcSession, now: float) -> int:
        """Seconds for which a browser should keep the cookie."""
        return max(1, int(min(now + spec.idle, self.began + spec.lifetime) - now))


_sessions = msgspec.msgpack.Decoder(Session)
_attempts = msgspec.msgpack.Decoder(Attempt)
encode = msgspec.msgpack.encode


def session_of(data: bytes) -> Session | None:
    """What encode() made; None for what an older version made otherwise."""
    try:
        return _sessions.decode(data)
    except msgspec.MsgspecError:
        return None


def attempt_of(data: bytes) -> Attempt | None:
    """See session_of()."""
    try:
        return _attempts.decode(data)
    except msgspec.MsgspecError:
        return None
