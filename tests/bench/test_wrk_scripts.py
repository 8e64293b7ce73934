"""The scripts of tools/wrk, run by wrk, and what arrives of them."""

import asyncio
import json
from pathlib import Path

import httptools
import pytest

from bench.processes import program

SCRIPTS = Path(__file__).parents[2] / "tools" / "wrk"
KEPT = 1000


class Recorder(asyncio.Protocol):
    """Answers every request and keeps the first ones."""

    def __init__(self, seen):
        self.seen = seen
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_message_begin(self):
        self.request = {"headers": {}, "body": 0}

    def on_url(self, url):
        self.request["path"] = url.decode()

    def on_header(self, name, value):
        self.request["headers"][name.decode()] = value.decode()

    def on_body(self, body):
        self.request["body"] += len(body)

    def on_message_complete(self):
        self.request["method"] = self.parser.get_method().decode()
        if len(self.seen) < KEPT:
            self.seen.append(self.request)
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def _drive(script, path, options, arguments):
    seen = []
    server = await asyncio.get_running_loop().create_server(lambda: Recorder(seen), "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
        command = [program("wrk"), "-t1", "-c2", "-d1s", "-s", str(SCRIPTS / script), *options, url, "--", *arguments]
        wrk = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await wrk.communicate()
    return json.loads(said.splitlines()[-1]), seen


def drive(script, path, options=(), arguments=()):
    """The JSON line of a run of wrk, and the requests that arrived."""
    return asyncio.run(_drive(script, path, options, arguments))


@pytest.mark.parametrize("script", ["report", "rich", "post", "paths", "pipelined"])
def test_every_script_ends_with_a_line_of_json(script):
    report, seen = drive(f"{script}.lua", "/")
    assert report["requests"] >= len(seen) - 16 > 0
    assert report["rate"] == pytest.approx(report["requests"] / report["seconds"], rel=0.01)
    assert set(report["errors"].values()) == {0}
    assert 0 < report["latency_us"]["p50"] <= report["latency_us"]["max"]


def test_rich_sends_twelve_headers_besides_host():
    _, seen = drive("rich.lua", "/")
    assert len(seen[0]["headers"].keys() - {"Host"}) == 12


def test_post_sends_a_body_of_the_size_asked_for_and_keeps_the_asking_to_itself():
    _, seen = drive("post.lua", "/upload", ["-H", "X-Body-Bytes: 16384"])
    assert {(request["method"], request["body"]) for request in seen} == {("POST", 16384)}
    assert "X-Body-Bytes" not in seen[0]["headers"]


def test_paths_stay_below_the_prefix_and_in_range():
    _, seen = drive("paths.lua", "/users/", arguments=["9"])
    assert {request["path"] for request in seen} == {f"/users/{number}" for number in range(1, 10)}


def test_pipelined_counts_every_request_of_a_batch():
    report, seen = drive("pipelined.lua", "/x", arguments=["16"])
    assert {request["path"] for request in seen} == {"/x"}
    assert report["requests"] >= 16
