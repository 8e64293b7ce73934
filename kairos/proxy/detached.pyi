import asyncio
from collections.abc import Iterable

from kairos.proxy.exchange import Downstream, Plan, Runtime

LIMIT: int

class Fetched:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    failure: str | None
    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, failure: str | None = None
    ) -> None: ...
    def header(self, name: bytes) -> bytes | None: ...

def fetch(
    runtime: Runtime,
    plan: Plan,
    method: str,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    *,
    limit: int = ...,
    client: bytes = b"unknown",
    secure: bool = False,
) -> asyncio.Future[Fetched]: ...

class Detached(Downstream):
    @property
    def idle(self) -> bool: ...
    def drain(self) -> None: ...
    def kill(self) -> None: ...
