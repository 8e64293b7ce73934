"""The gateway as the client of its OpenID providers, once for all workers.

    metadata, keys  fetched when first asked for, kept for an hour, and good for longer while the provider is silent;
                    keys are fetched anew for a worker that saw an unknown one, but not more often than every 30 s
    codes           exchanged once for a state: a callback that is played again gets nothing
    refreshes       of one refresh token are one request, whose answer all get who ask within a minute: providers that
                    rotate refresh tokens take a second use for theft, and browsers send requests side by side

What is asked is JSON of kairos.config.discovery. Secrets and tokens are never logged.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import msgspec

from kairos.config.discovery import WELL_KNOWN, CodeGrant, Granted, Known, Metadata, RefreshGrant, metadata_of
from kairos.config.model import UpstreamTls
from kairos.config.tls import client_context
from kairos.control.client import Answer, Asking, NoAnswerError, ask
from kairos.control.http import Request, Response, problem
from kairos.resolver import Resolver
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Mapping

    from kairos.config.model import Config
    from kairos.config.oidc import OidcProvider
    from kairos.control.http import Handler

FRESH = 3600.0
"""Seconds for which documents are not asked for again."""
PAUSE = 5.0
"""Seconds between two questions to a provider that does not answer."""
KEYS_PAUSE = 30.0
"""Seconds between two fetches of keys because of tokens with unknown ones, which anybody can make up."""
REMEMBERED = 60.0
"""Seconds for which the outcome of a refresh is given to those who come late."""
MAX_REMEMBERED = 50_000
STATE_LIFE = 3600.0
AT_ONCE = 64
"""Requests to one provider under way; further ones wait for theirs."""
FORM = "application/x-www-form-urlencoded"

log = get_logger("control")


class Providers:
    """All that are configured. Inside the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._resolver: Resolver | None = None
        self._providers: dict[str, Provider] = {}

    def apply(self, config: Config) -> None:
        """Follow a configuration; a provider whose section did not change keeps what it knows."""
        if config.oidc and self._resolver is None:
            self._resolver = Resolver()
        kept = self._providers
        self._providers = {}
        for name, spec in config.oidc.items():
            known = kept.get(name)
            assert self._resolver is not None
            same = known is not None and known.spec == spec
            self._providers[name] = known if known and same else Provider(name, spec, self._resolver, self._clock)

    async def close(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """What workers may ask."""
        return {
            "/oidc/{name}": {"GET": self._of(Provider.known)},
            "/oidc/{name}/keys": {"POST": self._of(Provider.fresh_keys)},
            "/oidc/{name}/code": {"POST": self._of(Provider.exchange)},
            "/oidc/{name}/refresh": {"POST": self._of(Provider.refresh)},
            "/oidc/{name}/revoke": {"POST": self._of(Provider.revoke)},
        }

    def _of(self, act: Callable[[Provider, bytes], Coroutine[Any, Any, Any]]) -> Handler:
        async def answer(request: Request) -> Response:
            provider = self._providers.get(request.params["name"])
            if provider is None:
                return problem(404, "there is no such provider")
            try:
                return Response(msgspec.json.encode(await act(provider, request.body)))
            except (NoAnswerError, ValueError) as error:
                return problem(502, str(error))

        return answer


class Provider:
    """One provider, and what is known of it."""

    def __init__(self, name: str, spec: OidcProvider, resolver: Resolver, clock: Callable[[], float]) -> None:
        self.spec = spec
        self._name = name
        self._resolver = resolver
        self._clock = clock
        self._context: ssl.SSLContext | None = None
        self._room = asyncio.Semaphore(AT_ONCE)
        self._known: Known | None = None
        self._fetched = self._failed = float("-inf")
        self._failure = ""
        self._fetching: asyncio.Task[Known] | None = None
        self._states = _Remembered(STATE_LIFE, clock)
        self._refreshes = _Remembered(REMEMBERED, clock)
        self._refreshing: dict[bytes, asyncio.Task[Granted]] = {}

    # -- documents ------------------------------------------------------------------------------------------------

    async def known(self, _body: bytes = b"") -> Known:
        """Metadata and keys.

        Raises:
            NoAnswerError: there are none, and the provider gives none now.
        """
        now = self._clock()
        if self._known is not None and now - self._fetched < FRESH:
            return self._known
        if now - self._failed < PAUSE:
            if self._known is not None:
                return self._known
            raise NoAnswerError(self._failure)
        return await self._fetch()

    async def fresh_keys(self, _body: bytes = b"") -> Known:
        """A token has a key nobody knows: perhaps it is new."""
        if self._clock() - max(self._fetched, self._failed) < KEYS_PAUSE and self._known is not None:
            return self._known
        return await self._fetch()

    async def _fetch(self) -> Known:
        """One fetch at a time, whoever waits for it. What was known stays good when it fails."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._documents())
            self._fetching.add_done_callback(self._fetch_over)
        try:
            return await asyncio.shield(self._fetching)
        except (NoAnswerError, ValueError):
            if self._known is None:
                raise
            return self._known

    def _fetch_over(self, task: asyncio.Task[Known]) -> None:
        self._fetching = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._known, self._fetched = task.result(), self._clock()
        else:
            self._failed, self._failure = self._clock(), str(error)
            log.warning("identity provider gives no documents", provider=self._name, reason=str(error))

    async def _documents(self) -> Known:
        document = await self._get(self.spec.issuer.rstrip("/") + WELL_KNOWN)
        metadata = metadata_of(document, self.spec.issuer)
        return Known(metadata, (await self._get(metadata.jwks_uri)).decode())

    async def _get(self, url: str) -> bytes:
        answer = await self._ask(Asking(url))
        if answer.status != 200:
            raise NoAnswerError(f"{url} answers {answer.status}")
        return answer.body

    # -- tokens ---------------------------------------------------------------------------------------------------

    async def exchange(self, body: bytes) -> Granted:
        """A code for tokens, once for each state."""
        grant = msgspec.json.decode(body, type=CodeGrant)
        if not self._states.add(grant.state.encode(), True):
            return Granted("replayed")
        return await self._granted(
            {
                "grant_type": "authorization_code",
                "code": grant.code,
                "redirect_uri": grant.redirect_uri,
                "code_verifier": grant.verifier,
            }
        )

    async def refresh(self, body: bytes) -> Granted:
        """A refresh token for new tokens: once, however many ask."""
        token = msgspec.json.decode(body, type=RefreshGrant).refresh_token
        key = sha256(token.encode()).digest()
        known: Granted | None = self._refreshes.get(key)
        if known is not None:
            return known
        task = self._refreshing.get(key)
        if task is None:
            task = asyncio.create_task(self._granted({"grant_type": "refresh_token", "refresh_token": token}))
            self._refreshing[key] = task
            task.add_done_callback(lambda done: self._refreshed(key, done))
        return await asyncio.shield(task)

    def _refreshed(self, key: bytes, task: asyncio.Task[Granted]) -> None:
        del self._refreshing[key]
        if not task.cancelled() and task.exception() is None and task.result().error != "unavailable":
            self._refreshes.add(key, task.result())

    async def revoke(self, body: bytes) -> Granted:
        """The session is over: its refresh token with it (RFC 7009), where the provider knows how."""
        token = msgspec.json.decode(body, type=RefreshGrant).refresh_token
        url = (await self.known()).metadata.revocation_endpoint
        if url is not None:
            await self._post(url, {"token": token, "token_type_hint": "refresh_token"})
        return Granted()

    async def _granted(self, form: dict[str, str]) -> Granted:
        """What the token endpoint says; that it does not answer is an error of its own."""
        try:
            metadata = (await self.known()).metadata
            answer = await self._post(metadata.token_endpoint, form)
            granted = self._read(answer)
            if granted.error is None and self.spec.userinfo:
                return msgspec.structs.replace(granted, userinfo=await self._userinfo(metadata, granted))
        except (NoAnswerError, ValueError) as error:
            log.warning("identity provider gives no tokens", provider=self._name, reason=str(error))
            return Granted("unavailable")
        if granted.error is not None:
            log.info("identity provider refuses tokens", provider=self._name, reason=granted.error)
        return granted

    def _read(self, answer: Answer) -> Granted:
        try:
            said = msgspec.json.decode(answer.body)
        except msgspec.MsgspecError as error:
            raise NoAnswerError(f"the token endpoint answers {answer.status} without JSON") from error
        if not isinstance(said, dict) or answer.status >= 500:
            raise NoAnswerError(f"the token endpoint answers {answer.status}")
        if answer.status != 200:
            return Granted(str(said.get("error") or "invalid_request")[:64])
        if str(said.get("token_type", "")).lower() != "bearer":
            raise NoAnswerError("the token endpoint gives tokens of an unknown type")
        wanted = {name: said.get(name) for name in ("access_token", "id_token", "refresh_token", "expires_in")}
        try:
            return msgspec.convert(wanted, Granted, strict=False)
        except msgspec.MsgspecError as error:
            raise NoAnswerError(f"the token endpoint's answer: {error}") from error

    async def _userinfo(self, metadata: Metadata, granted: Granted) -> dict[str, Any]:
        if metadata.userinfo_endpoint is None:
            raise NoAnswerError("the provider has no userinfo endpoint")
        headers = {"Authorization": f"Bearer {granted.access_token}"}
        answer = await self._ask(Asking(metadata.userinfo_endpoint, headers=headers))
        if answer.status != 200:
            raise NoAnswerError(f"the userinfo endpoint answers {answer.status}")
        return msgspec.json.decode(answer.body, type=dict[str, Any])

    async def _post(self, url: str, form: dict[str, str]) -> Answer:
        """As the client this gateway is (RFC 6749 section 2.3.1)."""
        spec, headers = self.spec, {"Content-Type": FORM}
        if spec.client_secret is None:
            form["client_id"] = spec.client_id
        elif spec.token_auth == "client_secret_post":
            form |= {"client_id": spec.client_id, "client_secret": spec.client_secret}
        else:
            both = f"{quote_plus(spec.client_id)}:{quote_plus(spec.client_secret)}"
            headers["Authorization"] = f"Basic {b64encode(both.encode()).decode()}"
        return await self._ask(Asking(url, "POST", headers, urlencode(form).encode()))

    async def _ask(self, asking: Asking) -> Answer:
        if self._context is None and asking.url.startswith("https:"):
            self._context = client_context(UpstreamTls(ca_file=self.spec.ca_file))
        async with self._room:
            return await ask(asking, self._resolver, self._context)


class _Remembered:
    """Values by key for some seconds, up to MAX_REMEMBERED: the oldest go first."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._values: OrderedDict[bytes, tuple[float, Any]] = OrderedDict()

    def get(self, key: bytes) -> Any:
        self._forget()
        entry = self._values.get(key)
        return None if entry is None else entry[1]

    def add(self, key: bytes, value: Any) -> bool:
        """False: it is there already."""
        self._forget()
        if key in self._values:
            return False
        self._values[key] = self._clock() + self._seconds, value
        return True

    def _forget(self) -> None:
        now = self._clock()
        while self._values:
            key, (ends, _) = next(iter(self._values.items()))
            if ends > now and len(self._values) <= MAX_REMEMBERED:
                return
            del self._values[key]
