"""httptools (llhttp, strict) as the judge of what a head or a chunked body means."""

from __future__ import annotations

import httptools


class Verdict:
    """What httptools called back with."""

    def __init__(self) -> None:
        self.url = b""
        self.reason = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.headers_complete = False
        self.complete = False
        self.keep_alive = False
        self.parser: httptools.HttpRequestParser | None = None

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.headers_complete = True
        if self.parser is not None:
            self.keep_alive = self.parser.should_keep_alive()  # forgotten once the message is complete

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def feed(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, data: bytes, piece: int = 0) -> bool:
    """Whether httptools takes the bytes, in pieces where asked for."""
    step = piece or max(1, len(data))
    try:
        for at in range(0, len(data), step):
            parser.feed_data(data[at : at + step])
    except httptools.HttpParserUpgrade:
        return True
    except httptools.HttpParserError:
        return False
    return True
