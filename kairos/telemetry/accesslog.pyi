from typing import TypedDict, Unpack, final

from kairos.config.model import AccessLog as AccessLogSpec
from kairos.scoreboard import Scoreboard

class _Fields(TypedDict, total=False):
    time_us: int
    client: str | bytes
    method: str | bytes
    scheme: str | bytes
    tls: bytes
    host: str | bytes
    target: str | bytes
    version: int
    status: int
    request_id: str | bytes
    traceparent: str | bytes
    route: str | bytes
    upstream: str | bytes
    attempts: int
    retried_for: str | bytes
    total_us: int
    gateway_us: int
    upstream_us: int
    bytes_in: int
    bytes_out: int
    user_agent: str | bytes
    referer: str | bytes
    flag: str | bytes
    detail: str | bytes

@final
class AccessLog:
    def __init__(
        self,
        scoreboard: Scoreboard,
        slot: int,
        spec: AccessLogSpec,
        tail: bool = False,
        also: AccessLog | None = None,
    ) -> None: ...
    def write_line(self, *, times: int = 1, **fields: Unpack[_Fields]) -> None: ...

@final
class LogReader:
    def __init__(self, scoreboard: Scoreboard) -> None: ...
    def __len__(self) -> int: ...
    def drain(self, slot: int) -> bytes: ...
    def drain_tail(self, slot: int) -> tuple[bytes, int]: ...
    def drain_said(self, slot: int) -> bytes: ...

@final
class SaidRing:
    def __init__(self, scoreboard: Scoreboard, slot: int) -> None: ...
    def write(self, line: bytes) -> bool: ...

def json_text(text: str) -> bytes: ...
def tls_fields(version: str | None, cipher: str | None, server_name: bytes | None) -> bytes: ...
