"""An HTTP/1.1 origin to try the gateway with: small, real, made to show what arrives.

  GET  /                 which origin answered, and the headers it saw
  GET  /users/{id}       one user as JSON
  any  /echo             the body back, with its content type
  GET  /stream?n=&ms=    server-sent events: n of them (5), ms apart (500)
  GET  /slow?ms=         an answer after a while (1000)
  GET  /bytes/{n}        n bytes
  any  /status/{code}    an answer with that status

  python examples/origins/http_origin.py --port 5911 --name first

Rules: requests of a connection are answered one after the other, and the next one is read only then; bodies are kept
in memory, up to MAX_BODY.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.client import responses
from urllib.parse import parse_qsl

import httptools
import uvloop

MAX_BODY = 16 * 1024 * 1024
MAX_BYTES = 1024 * 1024 * 1024
MAX_EVENTS = 10_000
MAX_WAIT_MS = 60_000
PIECE = b"0123456789abcdef" * 4096
BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class Refused(Exception):  # noqa: N818 - an answer, not a fault of this program
    """The request is answered with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Request:
    """One request, complete with its body."""

    method: str = ""
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    keep_alive: bool = True

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def number(self, name: str, default: int, greatest: int) -> int:
        return whole_number(self.query.get(name, str(default)), greatest)


class Parser:
    """Callbacks of httptools that collect complete requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.expects_continue = False
        self._http = httptools.HttpRequestParser(self)
        self._current = Request()
        self._target = b""

    def feed(self, data: bytes) -> None:
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._current.keep_alive = False  # what follows is another protocol, which this origin does not speak

    def on_message_begin(self) -> None:
        self._current, self._target = Request(), b""

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._current.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        path, _, query = self._target.decode("latin-1").partition("?")
        self._current.method = self._http.get_method().decode()
        self._current.path, self._current.query = path, dict(parse_qsl(query))
        self._current.keep_alive = self._http.should_keep_alive()
        self.expects_continue = (self._current.header("expect") or "").lower() == "100-continue"

    def on_body(self, part: bytes) -> None:
        self._current.body += part
        if len(self._current.body) > MAX_BODY:
            raise Refused(413, f"bodies end at {MAX_BODY} bytes")

    def on_message_complete(self) -> None:
        self.requests.append(self._current)


class Answer:
    """Writes one response; HEAD gets the head alone."""

    def __init__(self, writer: asyncio.StreamWriter, request: Request, origin: str) -> None:
        self.origin = origin
        self._writer = writer
        self._request = request

    def head(self, status: int, *fields: tuple[str, str]) -> None:
        connection = "keep-alive" if self._request.keep_alive else "close"
        everything = (*fields, ("X-Origin", self.origin), ("Connection", connection))
        lines = (f"HTTP/1.1 {status} {phrase(status)}", *(f"{name}: {value}" for name, value in everything))
        self._writer.write("\r\n".join((*lines, "", "")).encode("latin-1"))

    async def piece(self, data: bytes) -> None:
        if self._request.method != "HEAD":
            self._writer.write(data)
        await self._writer.drain()

    async def whole(self, status: int, content_type: str, body: bytes) -> None:
        if status in BODILESS:
            self.head(status)
            return await self.piece(b"")
        body = b"" if status == HTTPStatus.RESET_CONTENT else body  # 205 has no content, yet a length
        self.head(status, ("Content-Type", content_type), ("Content-Length", str(len(body))))
        await self.piece(body)

    async def json(self, status: int, document: object) -> None:
        await self.whole(status, "application/json", json.dumps(document, indent=2).encode() + b"\n")


def phrase(status: int) -> str:
    return responses.get(status, "Unassigned")


def whole_number(text: str, greatest: int) -> int:
    """A decimal number from 0 to the greatest allowed."""
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= greatest):
        raise Refused(400, f"{text!r} is not a number from 0 to {greatest}")
    return int(text)


async def hello(request: Request, answer: Answer, rest: str) -> None:
    document = {"message": "hello", "origin": answer.origin, "method": request.method, "path": request.path}
    await answer.json(200, {**document, "query": request.query, "headers": request.headers})


async def user(request: Request, answer: Answer, rest: str) -> None:
    await answer.json(200, {"id": rest, "name": f"User {rest}", "origin": answer.origin})


async def echo(request: Request, answer: Answer, rest: str) -> None:
    await answer.whole(200, request.header("content-type") or "application/octet-stream", bytes(request.body))


async def stream(request: Request, answer: Answer, rest: str) -> None:
    count, pause = request.number("n", 5, MAX_EVENTS), request.number("ms", 500, MAX_WAIT_MS) / 1000
    fields = (("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("Transfer-Encoding", "chunked"))
    answer.head(200, *fields)
    for number in range(count):
        event = f"id: {number}\ndata: {json.dumps({'number': number, 'origin': answer.origin})}\n\n".encode()
        await answer.piece(b"%x\r\n%b\r\n" % (len(event), event))
        await asyncio.sleep(pause if number < count - 1 else 0)
    await answer.piece(b"0\r\n\r\n")


async def slow(request: Request, answer: Answer, rest: str) -> None:
    milliseconds = request.number("ms", 1000, MAX_WAIT_MS)
    await asyncio.sleep(milliseconds / 1000)
    await answer.json(200, {"waited_ms": milliseconds, "origin": answer.origin})


async def some_bytes(request: Request, answer: Answer, rest: str) -> None:
    left = whole_number(rest, MAX_BYTES)
    answer.head(200, ("Content-Type", "application/octet-stream"), ("Content-Length", str(left)))
    while left:
        size = min(left, len(PIECE))
        await answer.piece(PIECE[:size])
        left -= size


async def status(request: Request, answer: Answer, rest: str) -> None:
    code = whole_number(rest, 599)
    if code < 200:
        raise Refused(400, "a final status is from 200 to 599")
    await answer.json(code, {"status": code, "origin": answer.origin})


Handler = Callable[[Request, Answer, str], Awaitable[None]]
EXACT: dict[str, Handler] = {"/": hello, "/echo": echo, "/stream": stream, "/slow": slow}
PREFIXES: dict[str, Handler] = {"/users/": user, "/bytes/": some_bytes, "/status/": status}


def find(path: str) -> tuple[Handler, str]:
    """The handler of a path, and the part of the path it takes as its argument."""
    if path in EXACT:
        return EXACT[path], ""
    for prefix, handler in PREFIXES.items():
        if path.startswith(prefix) and len(path) > len(prefix):
            return handler, path[len(prefix) :]
    raise Refused(404, f"nothing at {path}; try {', '.join([*EXACT, *PREFIXES])}")


async def respond(request: Request, answer: Answer) -> None:
    try:
        handler, rest = find(request.path)
        await handler(request, answer, rest)
    except Refused as refusal:
        await answer.json(refusal.status, {"error": str(refusal), "origin": answer.origin})


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
    """Everything that happens on one connection until either side ends it."""
    parser = Parser()
    while data := await reader.read(65536):
        parser.feed(data)
        if parser.expects_continue and not parser.requests:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parser.expects_continue = False
        for request in parser.requests:
            await respond(request, Answer(writer, request, name))
            if not request.keep_alive:
                return
        parser.requests.clear()


async def connection(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers what cannot be parsed, and closes."""
    try:
        with suppress(ConnectionError):
            await converse(reader, writer, name)
    except httptools.HttpParserError as error:
        refusal = error.__context__ if isinstance(error.__context__, Refused) else Refused(400, str(error))
        answer = Answer(writer, Request(keep_alive=False), name)
        await answer.json(refusal.status, {"error": str(refusal), "origin": name})
    finally:
        writer.close()


async def serve(host: str, port: int, name: str) -> None:
    """Listen until SIGINT or SIGTERM."""
    server = await asyncio.start_server(partial(connection, name), host, port, backlog=1024)
    print(f"{name}: http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="An HTTP origin to try the gateway with.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5911, help="0 chooses a free one, which the first line shows")
    parser.add_argument("--name", default="origin", help="shown in every answer, and in X-Origin")
    options = parser.parse_args()
    uvloop.run(serve(options.host, options.port, options.name))


if __name__ == "__main__":
    main()
