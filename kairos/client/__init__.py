"""A typed client of the admin API, synchronous and asynchronous.

with Client("https://gateway.example.com:5901", token="kairos_...") as kairos:
    for backend in kairos.list_backends():
        print(backend.key, backend.state)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from kairos.client.aio import AsyncOperations
from kairos.client.sync import Operations
from kairos.client.transport import (
    ApiError,
    BusyError,
    ClientError,
    ConflictError,
    Event,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Target,
    UnauthenticatedError,
    UnreachableError,
)

if TYPE_CHECKING:
    import httpx

__all__ = [
    "ApiError",
    "AsyncClient",
    "BusyError",
    "Client",
    "ClientError",
    "ConflictError",
    "Event",
    "ForbiddenError",
    "InvalidError",
    "NotFoundError",
    "Target",
    "UnauthenticatedError",
    "UnreachableError",
]


class Client(Operations):
    """Manages a gateway. Every method raises ClientError: UnreachableError, or the ApiError that fits."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        verify: bool | str = True,
        target: Target | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """By URL; without one as the environment says (see Target.of_environment)."""
        super().__init__(target or _target(url, token, verify), transport=transport)

    @classmethod
    def local(cls, state_dir: str) -> Self:
        """Of the gateway that holds this state folder."""
        return cls(target=Target.local(state_dir))

    def __enter__(self) -> Self:
        return self


class AsyncClient(AsyncOperations):
    """The same with `await`; methods that stream are asynchronous iterators."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        verify: bool | str = True,
        target: Target | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """By URL; without one as the environment says (see Target.of_environment)."""
        super().__init__(target or _target(url, token, verify), transport=transport)

    @classmethod
    def local(cls, state_dir: str) -> Self:
        """Of the gateway that holds this state folder."""
        return cls(target=Target.local(state_dir))

    async def __aenter__(self) -> Self:
        return self


def _target(url: str | None, token: str | None, verify: bool | str) -> Target:
    return Target(url, token, None, verify) if url else Target.of_environment()
