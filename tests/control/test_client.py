"""Requests of the control process: what goes out, what is taken for an answer, and what is not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest
import trustme
import uvloop

from kairos.control.client import MAX_ANSWER, Answer, Asking, NoAnswerError, ask
from kairos.resolver import Resolver
from tests.support.net import Peer, dead_port, echo, origin, read_request


def asked(asking: Asking, context: ssl.SSLContext | None = None, timeout: float = 5.0) -> Answer:
    async def run() -> Answer:
        resolver = Resolver()
        try:
            return await ask(asking, resolver, context, timeout)
        finally:
            await resolver.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def answering(*pieces: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        read_request(peer)
        for piece in pieces:
            peer.send(piece)

    return script


def test_what_goes_out() -> None:
    with origin(echo) as server:
        port = server.port
        answer = asked(Asking(f"{server.url}/token?a=b", "POST", {"Content-Type": "text/x"}, b"body"))
    assert answer.status == 200
    lines = answer.body.decode().split("\r\n")
    assert lines[0] == "POST /token?a=b HTTP/1.1"
    assert {f"Host: 127.0.0.1:{port}", "Content-Type: text/x", "Content-Length: 4", "Connection: close"} <= set(lines)
    assert lines[-1] == "body"


ANSWERS = [
    (b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n{}", 400, b"{}"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", 200, b"abc"),
    (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nz", 200, b"z"),
    (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
    (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
]


@pytest.mark.parametrize(("data", "status", "body"), ANSWERS)
def test_answers(data: bytes, status: int, body: bytes) -> None:
    with origin(answering(data)) as server:
        answer = asked(Asking(server.url))
    assert (answer.status, answer.body) == (status, body)


def silent(peer: Peer) -> None:
    peer.receive_all()


NO_ANSWERS = [
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"], "closed before"),
    ([b""], "closed before"),
    ([b"SSH-2.0-OpenSSH\r\n"], "no HTTP answer"),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", b"x" * (MAX_ANSWER + 1)], "larger than"),
]


@pytest.mark.parametrize(("pieces", "said"), NO_ANSWERS)
def test_what_is_no_answer(pieces: list[bytes], said: str) -> None:
    with origin(answering(*pieces)) as server, pytest.raises(NoAnswerError, match=said):
        asked(Asking(server.url))


def test_nobody_there_and_nobody_who_answers() -> None:
    with pytest.raises(NoAnswerError, match="refused"):
        asked(Asking(f"http://127.0.0.1:{dead_port()}/"))
    with pytest.raises(NoAnswerError, match="not an http address"):
        asked(Asking("ftp://127.0.0.1/"))
    with origin(silent) as server, pytest.raises(NoAnswerError, match="within"):
        asked(Asking(server.url), timeout=0.05)


def test_only_a_certificate_of_who_is_trusted_is_accepted() -> None:
    authority = trustme.CA()
    served, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(served)
    authority.configure_trust(trusting)

    def script(peer: Peer) -> None:
        with served.wrap_socket(peer.sock, server_side=True) as sock:
            echo(Peer(sock))

    with origin(script) as server:
        url = f"https://localhost:{server.port}/"
        with pytest.raises(NoAnswerError, match="certificate not accepted"):
            asked(Asking(url))
        with pytest.raises(NoAnswerError, match="certificate not accepted"):
            asked(Asking(url.replace("localhost", "127.0.0.1")), trusting)
        assert asked(Asking(url), trusting).status == 200
