"""Head scan and chunked decoding; heads are scanned a hundred times a call, so that the call itself does not count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kairos._speedups.http1 import ChunkedDecoder, scan

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

FIELDS = b"".join(b"X-Field-%d: value %d of some length, as they have\r\n" % (n, n) for n in range(12))
REQUESTS = {
    "bare": b"GET /api/users/42 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
    "12 fields": b"GET /api/users/42?full=1 HTTP/1.1\r\nHost: api.example.com\r\n" + FIELDS + b"\r\n",
}
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n" + FIELDS + b"\r\n"
CHUNKED = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(16)) + b"0\r\n\r\n"


@pytest.mark.parametrize("head", REQUESTS.values(), ids=REQUESTS)
def test_scan_request_100_times(benchmark: BenchmarkFixture, head: bytes) -> None:
    assert benchmark(scan, head, times=100) == len(head)


def test_scan_response_100_times(benchmark: BenchmarkFixture) -> None:
    assert benchmark(scan, RESPONSE, response=True, times=100) == len(RESPONSE)


def test_decode_16_kib_in_chunks(benchmark: BenchmarkFixture) -> None:
    assert benchmark(lambda: ChunkedDecoder().feed(CHUNKED))[1]
