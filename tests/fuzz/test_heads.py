"""Differential fuzz of the scanner and the chunk decoder against httptools; see properties.py for what must hold."""

from __future__ import annotations

from hypothesis import example, given, settings

from tests.fuzz import properties
from tests.fuzz.heads import chunked_bodies, mutated, requests, responses

EXAMPLES = settings(max_examples=600, deadline=None)


@EXAMPLES
@given(mutated(requests))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
@example(b"GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n")
def test_what_the_scanner_takes_httptools_takes_alike(data: bytes) -> None:
    properties.request_head(data)


@EXAMPLES
@given(mutated(responses))
@example(b"HTTP/1.1 200\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding:chunked\t\r\n\r\n")
def test_the_same_for_responses(data: bytes) -> None:
    properties.response_head(data)


@EXAMPLES
@given(mutated(requests))
@example(b"GET http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n")
def test_a_canonical_head_is_for_the_scanner_to_judge(data: bytes) -> None:
    properties.canonical(data)


@EXAMPLES
@given(mutated(chunked_bodies()))
@example(b'5;a="b\r\nhello\r\n0\r\n\r\n')
def test_what_the_decoder_takes_httptools_takes_alike(data: bytes) -> None:
    properties.chunked_body(data)
