"""Another service decides: asked with the parts of the request that its section names, as gateways commonly do.

Consent (2xx) is remembered under everything the service was told, so it never holds for a request that it would have
seen differently. Requests under way that would tell it the same wait for one answer, where answers are remembered.
What fails (no answer in time, 5xx) is denied unless the section says otherwise.
"""

from __future__ import annotations

import re
import time
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kairos.config.policies.forward_auth import ALL
from kairos.proxy.exchange import Response
from kairos.proxy.fields import REQUEST_OWN
from kairos.proxy.filters.authenticate import Authenticator, Refusal
from kairos.proxy.filters.authn.memory import Once, Recent
from kairos.proxy.identity import Identity
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kairos.config.policies.forward_auth import ForwardAuth
    from kairos.proxy.detached import Fetched
    from kairos.proxy.exchange import Exchange, Plan
    from kairos.proxy.site import Services, Site

Fields = list[tuple[bytes, bytes]]

ANSWER_BYTES = 64 * 1024
LOG_PAUSE = 1.0
"""Seconds between two lines about failures: requests come faster."""
UNAVAILABLE = Refusal("auth_unavailable")
_NOT_TOLD = REQUEST_OWN | {
    b"accept-encoding", b"content-digest", b"content-encoding", b"content-type", b"if-match", b"if-modified-since",
    b"if-none-match", b"if-range", b"if-unmodified-since", b"range",
}  # fmt: skip
"""Not even with `*`: what is about the request's body, and what would make the answer one about a part or a copy."""
_MAX_AGE = re.compile(rb"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_NO_STORE = re.compile(rb"(?:^|,)\s*no-(?:store|cache)\b", re.IGNORECASE)

log = get_logger("auth")


class Verdict(NamedTuple):
    """What the service said."""

    identity: Identity | None
    """The caller it consents to; `told` is for the backend."""
    told: tuple[tuple[str, bytes | None], ...] = ()
    refusal: tuple[int, bytes, tuple[tuple[bytes, bytes], ...]] | None = None
    """Status, body and headers for the client."""
    keep_s: float = 0.0


class Memory:
    """Consent that still holds, by what the service was told; and the questions under way."""

    def __init__(self, size: int) -> None:
        self._verdicts = Recent[Verdict](size)
        self._once = Once["Verdict | None"]()
        self.find = self._verdicts.find

    async def ask(self, mark: bytes, question: Callable[[], Awaitable[Verdict | None]]) -> Verdict | None:
        """The answer to a question, once for all that ask it at the same time."""
        return await self._once.do(mark, partial(self._settle, mark, question))

    async def _settle(self, mark: bytes, question: Callable[[], Awaitable[Verdict | None]]) -> Verdict | None:
        verdict = await question()
        if verdict is not None:
            self._verdicts.keep(mark, verdict, verdict.keep_s)
        return verdict


class ForwardAuthenticator(Authenticator):
    """Made by build()."""

    def __init__(self, spec: ForwardAuth, services: Services, plan: Plan, memory: Memory) -> None:
        parts = urlsplit(spec.url)
        self._spec = spec
        self._services = services
        self._plan = plan
        self._memory = memory
        self._target = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode()
        self._copied = frozenset(name.lower().encode() for name in spec.request_headers)
        self._tell = frozenset(spec.tell)
        self._quiet_until = 0.0

    def authenticate(self, x: Exchange) -> Identity | Awaitable[Identity | Refusal | Response | None]:
        question, client = self._question(x)
        secure = x.client_scheme == "https"
        if not self._spec.cache_time:
            return self._decided(x, self._answer(question, client, secure))
        mark = _mark(question, client, secure)
        verdict = self._memory.find(mark)
        if verdict is not None and verdict.identity is not None:
            self._tell_backend(x, verdict)
            return verdict.identity
        return self._decided(x, self._memory.ask(mark, partial(self._answer, question, client, secure)))

    def _question(self, x: Exchange) -> tuple[Fields, bytes]:
        """All that the service is told of a request but the scheme: headers, and the client's address."""
        everything = ALL.encode() in self._copied
        fields = [
            (name, value)
            for name, value in x.headers
            if (lower := name.lower()) not in _NOT_TOLD and (everything or lower in self._copied)
            and not lower.startswith((b"x-forwarded-", b"sec-websocket-"))
        ]  # fmt: skip
        if "method" in self._tell:
            fields.append((b"X-Forwarded-Method", x.method.encode()))
        if "uri" in self._tell:
            fields.append((b"X-Forwarded-Uri", x.target))
        if "host" in self._tell:
            fields.append((b"Host", x.host.encode("latin-1")))  # becomes X-Forwarded-Host: the plan writes its own Host
        return fields, x.client.encode() if "client" in self._tell else b"unknown"

    async def _answer(self, question: Fields, client: bytes, secure: bool) -> Verdict | None:
        """What the service says; None: nothing that counts."""
        answer = await self._services.fetch(
            self._plan, self._spec.method, self._target, question, limit=ANSWER_BYTES, client=client, secure=secure
        )
        if answer.failure is not None or answer.status >= 500 or answer.status < 200:
            self._complain(answer)
            return None
        return self._consent(answer) if answer.status < 300 else self._refusal(answer)

    def _complain(self, answer: Fetched) -> None:
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + LOG_PAUSE
            reason = answer.failure or answer.status
            log.warning("no decision about requests", url=self._spec.url, reason=reason, then=self._spec.on_failure)

    def _consent(self, answer: Fetched) -> Verdict:
        spec = self._spec
        told = tuple((name, _joined(answer, name)) for name in spec.response_headers)
        subject = (_joined(answer, spec.user_header) or b"").decode("latin-1") if spec.user_header else ""
        claims = {name.lower(): value.decode("latin-1") for name, value in told if value is not None}
        identity = Identity(subject, "forward", {**claims, "sub": subject} if subject else claims)
        return Verdict(identity, told, keep_s=_keep(answer, spec.cache_time))

    def _refusal(self, answer: Fetched) -> Verdict:
        listed = {name.lower().encode() for name in self._spec.client_headers}
        headers = tuple((name, value) for name, value in answer.headers if name.lower() in listed)
        return Verdict(None, refusal=(answer.status, answer.body, headers))

    async def _decided(self, x: Exchange, asking: Awaitable[Verdict | None]) -> Identity | Refusal | Response | None:
        verdict = await asking
        if x.finished:
            return None
        if verdict is None:
            return self._undecided(x)
        if verdict.refusal is not None:
            return Response(*verdict.refusal)
        self._tell_backend(x, verdict)
        return verdict.identity

    def _undecided(self, x: Exchange) -> Identity | Refusal:
        if self._spec.on_failure == "deny":
            return UNAVAILABLE
        self._strip(x)
        return NOBODY

    def _tell_backend(self, x: Exchange, verdict: Verdict) -> None:
        for name, value in verdict.told:
            x.set_request_header(name, value)

    def _strip(self, x: Exchange) -> None:
        for name in self._spec.response_headers:
            x.set_request_header(name, None)

    def withhold(self, x: Exchange) -> None:
        """Of another's caller, what only this service may say; of its own, the credentials it was told."""
        if x.identity is None or x.identity.method != "forward":
            return self._strip(x)
        for name in ("Authorization", "Cookie"):
            if name.lower().encode() in self._copied:
                x.set_request_header(name, None)
        return None


NOBODY = Identity("", "forward", {})
"""Whoever passes because the service does not answer."""


def _joined(answer: Fetched, name: str) -> bytes | None:
    """A field of the answer, its lines as one."""
    lower = name.lower().encode()
    values = [value for key, value in answer.headers if key.lower() == lower]
    return b", ".join(values) if values else None


def _keep(answer: Fetched, most_s: float) -> float:
    """For how long consent may be remembered."""
    control = _joined(answer, "cache-control") or b""
    if _NO_STORE.search(control):
        return 0.0
    found = _MAX_AGE.search(control)
    return most_s if found is None else min(most_s, float(found[1]))


def _mark(question: Fields, client: bytes, secure: bool) -> bytes:
    """Stands for all that the service is told."""
    parts = [client, b"s" if secure else b"-"]
    for name, value in question:
        parts += [name.lower(), value]
    return blake2b(b"".join(len(part).to_bytes(4) + part for part in parts), digest_size=32).digest()


def build(site: Site) -> Authenticator:
    """The authenticator of a route whose section forward_auth names the service."""
    spec = site.policies.forward_auth
    if spec is None:
        raise ValueError(f"route {site.name} wants another service to decide, but has no forward_auth section")
    plan = site.services.plan(spec.url, timeout_s=spec.timeout)
    memory = site.kept(("forward_auth", msgspec.json.encode(spec)), partial(Memory, spec.cache_size))
    return ForwardAuthenticator(spec, site.services, plan, memory)
