"""The example HTTP origin, asked over real sockets."""

import json
import socket
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest


@contextmanager
def asked(port, method, target, body=None, headers=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=25)
    try:
        connection.request(method, target, body, headers or {})
        yield connection.getresponse()
    finally:
        connection.close()


def get_json(port, target):
    with asked(port, "GET", target) as answer:
        return answer.status, json.load(answer)


def test_root_tells_who_answered_and_what_arrived(http_origin):
    with asked(http_origin, "GET", "/?a=1", headers={"X-Forwarded-For": "192.0.2.7"}) as answer:
        said = json.load(answer)
    assert (answer.status, answer.headers["X-Origin"]) == (200, "first")
    assert (said["origin"], said["method"], said["query"]) == ("first", "GET", {"a": "1"})
    assert ["X-Forwarded-For", "192.0.2.7"] in said["headers"]


def test_user_by_id(http_origin):
    status, said = get_json(http_origin, "/users/42")
    assert (status, said["id"]) == (200, "42")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_echo_returns_body_and_type(http_origin, method):
    with asked(http_origin, method, "/echo", b"\x00hello" * 50_000, {"Content-Type": "application/x-own"}) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-own")
        assert answer.read() == b"\x00hello" * 50_000


def test_echo_of_a_chunked_body(http_origin):
    pieces = (b"one", b"two", b"three")
    connection = HTTPConnection("127.0.0.1", http_origin, timeout=25)
    connection.request("POST", "/echo", iter(pieces), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert connection.getresponse().read() == b"onetwothree"
    connection.close()


def test_stream_sends_events_and_ends(http_origin):
    with asked(http_origin, "GET", "/stream?n=3&ms=1") as answer:
        assert (answer.headers["Content-Type"], answer.headers["Transfer-Encoding"]) == ("text/event-stream", "chunked")
        events = answer.read().decode().strip().split("\n\n")
    assert [json.loads(event.split("data: ")[1])["number"] for event in events] == [0, 1, 2]


def test_slow_says_how_long_it_waited(http_origin):
    assert get_json(http_origin, "/slow?ms=1") == (200, {"waited_ms": 1, "origin": "first"})


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_003])
def test_bytes_has_the_size_asked_for(http_origin, size):
    with asked(http_origin, "GET", f"/bytes/{size}") as answer:
        assert answer.headers["Content-Length"] == str(size)
        assert len(answer.read()) == size


def test_head_has_the_length_and_no_body(http_origin):
    with asked(http_origin, "HEAD", "/bytes/1000") as answer:
        assert (answer.headers["Content-Length"], answer.read()) == ("1000", b"")


@pytest.mark.parametrize("code", [200, 201, 204, 205, 304, 404, 418, 503, 599])
def test_status_is_the_one_asked_for(http_origin, code):
    with asked(http_origin, "GET", f"/status/{code}") as answer:
        body = answer.read()
    assert (answer.status, bool(body)) == (code, code not in (204, 205, 304))


@pytest.mark.parametrize(
    ("target", "status"),
    [("/nowhere", 404), ("/users/", 404), ("/status/100", 400), ("/status/x", 400), ("/bytes/-1", 400),
     ("/slow?ms=99999999", 400), ("/stream?n=%C2%B2", 400)],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_a_reason(http_origin, target, status):
    got, said = get_json(http_origin, target)
    assert (got, bool(said["error"])) == (status, True)


def converse(port, data):
    """Everything the origin says to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=25) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_pipelined_requests_are_answered_in_order(http_origin):
    requests = b"".join(b"GET /users/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5))
    said = converse(http_origin, requests)
    assert [said.index(b'"User %d"' % number) for number in range(5)] == sorted(
        said.index(b'"User %d"' % number) for number in range(5)
    )
    assert said.count(b"HTTP/1.1 200 OK") == 5


def test_expect_continue_is_answered_before_the_body(http_origin):
    with socket.create_connection(("127.0.0.1", http_origin), timeout=25) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_garbage_gets_400_and_a_closed_connection(http_origin):
    said = converse(http_origin, b"GARBAGE\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in said


def test_a_body_above_the_limit_gets_413(http_origin):
    with socket.create_connection(("127.0.0.1", http_origin), timeout=25) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000001\r\n")
        for _ in range(256):
            connection.sendall(bytes(65536))
        connection.sendall(b"x")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
