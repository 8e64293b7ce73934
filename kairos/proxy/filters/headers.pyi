from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from kairos.proxy.edits import Edits
from kairos.proxy.exchange import Exchange, Filter, Response

class AddMissing:
    def __init__(self, lower: bytes, edits: Edits) -> None: ...

Step: TypeAlias = Edits | AddMissing | Callable[[Exchange], None]

class RequestHeaders(Filter):
    def __init__(self, steps: Iterable[Step]) -> None: ...
    def on_request(self, x: Exchange) -> Response | Awaitable[Response | None] | None: ...

class ResponseHeaders(Filter):
    def __init__(self, steps: Iterable[Step]) -> None: ...
    def on_response(self, x: Exchange) -> Response | None: ...
