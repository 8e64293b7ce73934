"""How operations reach a gateway: over the socket in its state folder, or by URL with a token; errors as exceptions.

Requests that nobody answered are not sent again: the caller knows whether it matters.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import UNSET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

T = TypeVar("T")
ADMIN_SOCKET = "admin.sock"
DEFAULT_URL = "http://127.0.0.1:5901"
CONNECT_S = 5.0
PATIENCE_S = 150.0
"""For an answer: longer than a gateway gives itself for the longest command."""


class ClientError(Exception):
    """Something was not done; the text says why."""


class UnreachableError(ClientError):
    """Nobody answers, or not as a gateway does."""


class ApiError(ClientError):
    """The gateway says no."""

    def __init__(self, status: int, detail: str, problems: list[str], retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = problems
        """Each reason, where there are several."""
        self.retry_after = retry_after
        """Seconds after which it may be asked again."""


class UnauthenticatedError(ApiError):
    """401: no token, or one that is no good."""


class ForbiddenError(ApiError):
    """403: not allowed."""


class NotFoundError(ApiError):
    """404."""


class ConflictError(ApiError):
    """409, 412: it is not as the caller thinks."""


class InvalidError(ApiError):
    """400, 413, 422: what was sent does not fit; `problems` says where."""


class BusyError(ApiError):
    """429, 503, 504: it may work later."""


class Event(NamedTuple):
    """One of a stream."""

    id: str
    type: str
    data: Any
    """Decoded where it is JSON."""


_KINDS: dict[int, type[ApiError]] = {
    400: InvalidError, 401: UnauthenticatedError, 403: ForbiddenError, 404: NotFoundError, 409: ConflictError,
    412: ConflictError, 413: InvalidError, 422: InvalidError, 429: BusyError, 503: BusyError, 504: BusyError,
}  # fmt: skip


class Target(NamedTuple):
    """Where a gateway is managed."""

    url: str
    token: str | None = None
    socket: str | None = None
    verify: bool | str = True
    """False trusts any certificate; a path names the authorities to trust."""

    @classmethod
    def local(cls, folder: str) -> Target:
        """The gateway that holds a state folder, managed as its own user."""
        return cls("http://localhost", socket=os.path.join(folder, ADMIN_SOCKET))

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> Target:
        """KAIROS_URL (or KAIROS_GATEWAY_URL) and KAIROS_TOKEN, or KAIROS_STATE_DIR; else the default admin port."""
        url = environ.get("KAIROS_URL") or environ.get("KAIROS_GATEWAY_URL")
        if not url and (folder := environ.get("KAIROS_STATE_DIR")):
            return cls.local(folder)
        verify = environ.get("KAIROS_CA_FILE") or True
        return cls(url or DEFAULT_URL, environ.get("KAIROS_TOKEN") or None, None, verify)

    @property
    def shown(self) -> str:
        return self.socket or self.url

    def options(self) -> dict[str, Any]:
        """For httpx's clients, without what concerns the transport."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        timeout = httpx.Timeout(PATIENCE_S, connect=CONNECT_S)
        return {"base_url": self.url, "headers": headers, "timeout": timeout, "follow_redirects": False}


class Transport:
    """Synchronous. A context manager; `close` otherwise."""

    def __init__(self, target: Target, *, transport: httpx.BaseTransport | None = None) -> None:
        self.target = target
        if transport is None:
            transport = httpx.HTTPTransport(uds=target.socket, verify=target.verify)
        self.http = httpx.Client(transport=transport, **target.options())

    def call(
        self,
        kind: type[T] | Any,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        body: Any = UNSET,
    ) -> T:
        """The answer, decoded. Raises UnreachableError, ApiError."""
        try:
            response = self.http.send(_request(self.http, method, path, query, headers, body))
        except httpx.HTTPError as error:
            raise unreachable(self.target, error) from error
        decoded: T = answer(kind, response)
        return decoded

    def stream(self, method: str, path: str, *, query: Mapping[str, Any] | None = None) -> Iterator[Event]:
        """Events as they come, until the gateway or the caller ends it. Raises UnreachableError, ApiError."""
        request = _request(self.http, method, path, query, {"Accept": "text/event-stream"}, UNSET)
        request.extensions["timeout"] = httpx.Timeout(CONNECT_S, read=None).as_dict()
        try:
            response = self.http.send(request, stream=True)
            try:
                if response.is_error:
                    response.read()
                    raise refused(response)
                events = EventReader()
                for line in response.iter_lines():
                    yield from events.feed(line)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise unreachable(self.target, error) from error

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncTransport:
    """Asynchronous. A context manager; `close` otherwise."""

    def __init__(self, target: Target, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.target = target
        if transport is None:
            transport = httpx.AsyncHTTPTransport(uds=target.socket, verify=target.verify)
        self.http = httpx.AsyncClient(transport=transport, **target.options())

    async def call(
        self,
        kind: type[T] | Any,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        body: Any = UNSET,
    ) -> T:
        """The answer, decoded. Raises UnreachableError, ApiError."""
        try:
            response = await self.http.send(_request(self.http, method, path, query, headers, body))
        except httpx.HTTPError as error:
            raise unreachable(self.target, error) from error
        decoded: T = answer(kind, response)
        return decoded

    async def stream(self, method: str, path: str, *, query: Mapping[str, Any] | None = None) -> AsyncIterator[Event]:
        """Events as they come, until the gateway or the caller ends it. Raises UnreachableError, ApiError."""
        request = _request(self.http, method, path, query, {"Accept": "text/event-stream"}, UNSET)
        request.extensions["timeout"] = httpx.Timeout(CONNECT_S, read=None).as_dict()
        try:
            response = await self.http.send(request, stream=True)
            try:
                if response.is_error:
                    await response.aread()
                    raise refused(response)
                events = EventReader()
                async for line in response.aiter_lines():
                    for event in events.feed(line):
                        yield event
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise unreachable(self.target, error) from error

    async def close(self) -> None:
        await self.http.aclose()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class EventReader:
    """Lines of an event stream to events (WHATWG HTML, server-sent events)."""

    def __init__(self) -> None:
        self._id, self._type = "", "message"
        self._data: list[str] = []

    def feed(self, line: str) -> Iterator[Event]:
        """At most one event: an empty line ends it."""
        if not line:
            if self._data:
                yield Event(self._id, self._type, _decoded("\n".join(self._data)))
            self._type, self._data = "message", []
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id":
            self._id = value


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def quoted(value: object) -> str:
    """A value as a segment of a path."""
    return quote(str(value), safe="")


def given(members: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given."""
    return {name: value for name, value in members.items() if value is not UNSET}


def _request(
    http: httpx.Client | httpx.AsyncClient,
    method: str,
    path: str,
    query: Mapping[str, Any] | None,
    headers: Mapping[str, Any] | None,
    body: Any,
) -> httpx.Request:
    sent = {name: str(value) for name, value in (headers or {}).items() if value is not None}
    content = None
    if isinstance(body, bytes):
        content = body
    elif body is not UNSET:
        content = msgspec.json.encode(body)
        sent.setdefault("Content-Type", "application/json")
    params = {name: _shown(value) for name, value in (query or {}).items() if value is not None}
    return http.build_request(method, path, params=params, headers=sent, content=content)


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def answer(kind: Any, response: httpx.Response) -> Any:
    """What a response says, or ApiError."""
    if response.is_error or response.is_redirect:
        raise refused(response)
    if kind is None:
        return None
    if kind in (bytes, str):
        return response.content if kind is bytes else response.text
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError as error:
        raise UnreachableError(f"{response.url}: not the answer of a gateway of this version: {error}") from error


def refused(response: httpx.Response) -> ApiError:
    """The exception that an error response stands for."""
    try:
        body = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.MsgspecError:
        body = {}
    detail = str(body.get("detail") or body.get("message") or f"{response.status_code} {response.reason_phrase}")
    problems = [str(one) for one in body.get("problems", [])]
    after = response.headers.get("Retry-After", "")
    kind = _KINDS.get(response.status_code, ApiError)
    return kind(response.status_code, detail, problems, float(after) if after.isdigit() else None)


def unreachable(target: Target, error: httpx.HTTPError) -> UnreachableError:
    """In words that say what to do."""
    cause = error.__cause__ or error
    if target.socket is None:
        return UnreachableError(f"no gateway answers at {target.url}: {cause or type(error).__name__}")
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError(f"no answer on {target.socket} in time; the gateway's log may say why")
    other = "name the state folder of another with --state-dir or KAIROS_STATE_DIR"
    if not os.path.exists(target.socket):
        return UnreachableError(f"no gateway runs here: there is no {target.socket}; {other}")
    if not os.access(target.socket, os.W_OK):
        return UnreachableError(f"only the user that runs the gateway may manage it: no access to {target.socket}")
    if isinstance(error, httpx.ConnectError):
        return UnreachableError(f"no gateway runs here any more: nobody listens on {target.socket}; {other}")
    return UnreachableError(f"{target.socket}: {cause}")
