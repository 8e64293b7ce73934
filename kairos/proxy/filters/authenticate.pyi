from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from kairos.proxy.edits import Edits
from kairos.proxy.exchange import Exchange, Filter, Response
from kairos.proxy.identity import Identity

Outcome: TypeAlias = Identity | Refusal | Response | None

class Refusal:
    @property
    def kind(self) -> str: ...
    @property
    def detail(self) -> str | None: ...
    @property
    def challenge(self) -> bytes | None: ...
    def __init__(
        self, kind: str = "unauthorized", detail: str | None = None, challenge: bytes | None = None
    ) -> None: ...

class Authenticator:
    def authenticate(self, x: Exchange) -> Outcome | Awaitable[Outcome]: ...
    def withhold(self, x: Exchange) -> None: ...
    def missing(self, x: Exchange) -> str | Response | None: ...
    def challenge(self) -> bytes: ...

class Authenticate(Filter):
    def __init__(
        self,
        methods: Iterable[Authenticator],
        judge: Callable[[Identity], Edits | Refusal],
        anonymous: Edits | None = None,
        *,
        optional: bool = False,
        forward: bool = True,
    ) -> None: ...
