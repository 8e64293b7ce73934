"""What wrk prints becomes figures; the WebSocket load talks to its own echo origin."""

import asyncio
import os
import sys

import pytest

from bench import load, wire
from bench.processes import BenchError, free_port, running, wait_until_serving

QUIET = """Running 1s test @ http://127.0.0.1:8080/plain/1
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.60ms  514.11us  12.34ms   83.11%
    Req/Sec    40.40k     1.91k   43.14k    70.00%
  Latency Distribution
     50%    1.50ms
     75%  980.00us
     90%    2.02ms
     99%    1.20s
  40187 requests in 1.00s, 6.32MB read
Requests/sec:  40111.93
Transfer/sec:      6.31MB
"""
TROUBLED = QUIET.replace(
    "6.32MB read\n",
    "6.32MB read\n  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n",
)


def test_a_quiet_run():
    assert load.parse_wrk(QUIET) == load.Load(40187, 40111.93, 1500.0, 1_200_000.0, 0)


def test_socket_errors_and_bad_statuses_add_up():
    assert load.parse_wrk(TROUBLED).errors == 54_321


def test_output_of_another_shape_is_shown():
    with pytest.raises(BenchError, match="unable to connect"):
        load.parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


def test_wrk_that_fails_says_why():
    with pytest.raises(BenchError, match="wrk failed"):
        load.run_wrk(load.wrk_command("no-url", 1, 1))


def test_percentiles_of_messages():
    tally = load.Tally(latencies_ns=[number * 1000 for number in range(100, 0, -1)], errors=3)
    assert load.summary(tally, 2.0) == load.Load(100, 50.0, 51.0, 100.0, 3)


def test_a_run_without_messages_is_an_error():
    with pytest.raises(BenchError, match="7 connections"):
        load.summary(load.Tally(errors=7), 1.0)


def test_masking_twice_gives_the_message_back():
    message = os.urandom(wire.MESSAGE)
    assert wire.unmask(wire.unmask(message, wire.MASK), wire.MASK) == message
    assert wire.unmask(b"\x00\x00\x00\x00\x00", b"abcd") == b"abcda"


def test_the_accept_key_is_that_of_the_rfc():
    assert wire.accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.fixture
def echo_port(tmp_path):
    port, log = free_port(), tmp_path / "log"
    with running([sys.executable, "-m", "bench.origin", str(port)], log) as child:
        wait_until_serving(child, port, "/", log)
        yield port


def test_messages_bounce_between_client_and_echo_origin(echo_port):
    done = load.run_websocket(echo_port, "/ws", 4, 0.2)
    assert done.completed > 4
    assert done.errors == 0


def test_a_server_that_refuses_the_upgrade_is_an_error():
    class Refusal(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            transport.close()

    async def scene():
        server = await asyncio.get_running_loop().create_server(Refusal, "127.0.0.1", 0)
        async with server:
            return await load._ping_pong(server.sockets[0].getsockname()[1], "/ws", 2, 0.1)

    with pytest.raises(BenchError, match="2 connections refused or lost"):
        asyncio.run(scene())


S_TIME = """Collecting connection statistics for 3 seconds
****

2226 connections in 1.77s; 1257.63 connections/user sec, bytes read 0
2226 connections in 4 real seconds, 0 bytes read per connection
"""


def test_handshakes_are_counted_by_openssl():
    assert load.parse_s_time(S_TIME) == load.Load(2226, 556.5, 4e6 / 2226, 4e6 / 2226, 0)
    for text in ("", S_TIME.replace("2226", "0")):
        with pytest.raises(BenchError):
            load.parse_s_time(text)
