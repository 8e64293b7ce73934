from typing import TypedDict

class HeadDict(TypedDict):
    length: int
    minor: int
    method: bytes
    target: bytes
    status: int
    reason: bytes
    chunked: bool
    content_length: int
    fields: list[tuple[bytes, bytes]]
    copied: bytes
    host: bytes
    close: bool
    keep_alive: bool

def parse_request(
    data: bytes, *, head_bytes: int = 32768, line_bytes: int = 8192, header_count: int = 100, underscores: bool = False
) -> HeadDict | str | None: ...
def parse_response(
    data: bytes, *, head_bytes: int = 32768, line_bytes: int = 8192, header_count: int = 100, underscores: bool = False
) -> HeadDict | str | None: ...
def scan(data: bytes, *, response: bool = False, times: int = 1) -> int: ...

class ChunkedDecoder:
    trailers: bytes
    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]: ...
