"""Access log: what a request leaves in the ring, whatever its bytes, and what the reader takes out of it."""

from __future__ import annotations

import codecs
import json
import os
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups import cells
from kairos.config.model import AccessLog as Spec
from kairos.scoreboard import Capacity, Scoreboard
from kairos.telemetry.accesslog import AccessLog, LogReader, json_text, tls_fields

REQUEST = {
    "time_us": 1_795_243_383_000_042,
    "client": "192.0.2.7",
    "method": "GET",
    "scheme": "https",
    "host": "api.example.com",
    "target": "/users/42?full=1",
    "version": 11,
    "status": 200,
    "request_id": "0af7651916cd43dd",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "route": "/users/{id}",
    "upstream": "http://10.0.0.1:80",
    "attempts": 2,
    "retried_for": b"connect_failed",
    "total_us": 12_345,
    "gateway_us": 45,
    "upstream_us": 12_300,
    "bytes_in": 10,
    "bytes_out": 1 << 40,
    "user_agent": "curl/8",
    "referer": "https://example.com/",
    "flag": "UC",
    "cache": "miss",
    "detail": "via_upstream",
}
COMBINED = re.compile(
    rb'(?P<client>\S+) - - \[(?P<time>[^]]+)\] "(?P<request>[^"]*)" (?P<status>\d+) (?P<bytes>\d+)'
    rb' "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"\n'
)
codecs.register_error("each_byte", lambda error: ("\ufffd" * (error.end - error.start), error.end))


class Log:
    """One worker's log with its reader."""

    def __init__(self, **spec):
        self.board = Scoreboard(Capacity(workers=1, routes=1, pairs=1, upstreams=1))
        self.log = AccessLog(self.board, 0, Spec(**spec))
        self.reader = LogReader(self.board)

    def write(self, **fields) -> bytes:
        self.log.write_line(**fields)
        return self.reader.drain(0)

    @property
    def dropped(self) -> int:
        return self.board.page.get(self.board.worker_block(0) + cells.W_LOG_DROPPED)


def test_a_line_says_what_tls_its_connection_has():
    tls = tls_fields("TLSv1.3", "TLS_AES_128_GCM_SHA256", b'a"b\n\xff.test')
    line = json.loads(Log().write(**REQUEST, tls=tls))
    assert [line[key] for key in list(line)[-3:]] == ["TLSv1.3", "TLS_AES_128_GCM_SHA256", 'a"b\n\ufffd.test']
    assert list(line)[-3:] == ["tls_version", "tls_cipher", "server_name"]
    assert tls_fields("TLSv1.2", "X", None) == b',"tls_version":"TLSv1.2","tls_cipher":"X"'
    assert REQUEST["client"].encode() in Log(format="combined").write(**REQUEST, tls=tls)


def test_the_longest_server_name_fits_a_line():
    tls = tls_fields("TLSv1.3", "ECDHE-ECDSA-CHACHA20-POLY1305", b"\x01" * 255)
    assert json.loads(Log().write(**REQUEST, tls=tls))["server_name"] == "\x01" * 255


def test_a_json_line_says_all_that_is_known():
    assert json.loads(Log().write(**REQUEST)) == {
        "time": "2026-11-21T06:43:03.000042Z",
        "request_id": "0af7651916cd43dd",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "client": "192.0.2.7",
        "method": "GET",
        "scheme": "https",
        "host": "api.example.com",
        "path": "/users/42",
        "query": "full=1",
        "protocol": "HTTP/1.1",
        "status": 200,
        "route": "/users/{id}",
        "upstream": "http://10.0.0.1:80",
        "attempts": 2,
        "retried_for": "connect_failed",
        "duration_ms": 12.345,
        "gateway_ms": 0.045,
        "upstream_ms": 12.3,
        "bytes_in": 10,
        "bytes_out": 1 << 40,
        "user_agent": "curl/8",
        "referer": "https://example.com/",
        "flag": "UC",
        "cache": "miss",
        "detail": "via_upstream",
    }


def test_what_is_not_known_is_left_out():
    line = json.loads(Log().write(status=400, flag="-"))
    assert line == {
        "time": "1970-01-01T00:00:00.000000Z",
        "status": 400,
        "duration_ms": 0.0,
        "gateway_ms": 0.0,
        "bytes_in": 0,
        "bytes_out": 0,
    }


@given(st.integers(0, 4_102_444_800_000_000))
def test_time_is_the_proleptic_calendars(time_us):
    line = json.loads(Log().write(time_us=time_us))
    seconds, micros = divmod(time_us, 1_000_000)
    assert line["time"] == time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{micros:06}Z"


texts = st.one_of(st.binary(max_size=60), st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))


@given(texts, texts, texts, texts, texts)
def test_any_bytes_stay_inside_their_field(path, host, agent, method, request_id):
    path = path.replace(b"?", b"")
    sent = {"path": path, "host": host, "user_agent": agent, "method": method[:32], "request_id": request_id}
    fields = {("target" if key == "path" else key): value for key, value in sent.items()}
    raw = Log().write(status=404, **fields)
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"}\n")
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", raw)
    line = json.loads(raw)
    cut = line.pop("truncated", False)
    assert line["status"] == 404
    for key, value in sent.items():
        if not (cut and key == "method"):
            assert line.get(key, "") == value.decode("utf-8", "each_byte")


def test_a_forged_line_stays_text():
    raw = Log().write(status=200, user_agent=b'x"}\r\n{"status":200,"client":"10.0.0.1', target=b"/\n\x1b[31m\x00")
    assert raw.count(b"\n") == 1
    assert json.loads(raw)["user_agent"].startswith('x"}\r\n{')
    assert "client" not in json.loads(raw)


def test_long_fields_are_cut_at_a_character_and_the_line_says_so():
    line = json.loads(Log().write(status=200, user_agent="a" * 511 + "é" * 10, target="/" + "é" * 20_000))
    assert line["user_agent"] == "a" * 511
    assert line["path"] == "/" + "é" * 4095
    assert line["truncated"] is True
    assert "truncated" not in json.loads(Log().write(status=200, user_agent="a" * 512))


def test_the_longest_line_there_can_be_fits():
    wild = b"\x01" * 100_000
    fields = {
        key: wild for key, value in REQUEST.items() if isinstance(value, str) and key not in ("route", "upstream")
    }
    fields |= {"target": b"/?" + wild, "route": b"r" * 4096, "upstream": b"u" * 4096, "status": 200}
    for format_ in ("json", "combined"):
        log = Log(format=format_)
        assert log.write(**fields).count(b"\n") == 1
        assert log.dropped == 0


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        "00-" + "g" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
        "x" * 55,
    ],
)
def test_a_malformed_traceparent_is_not_logged(traceparent):
    assert "trace_id" not in json.loads(Log().write(traceparent=traceparent))


# --- redaction ----------------------------------------------------------------------------------------------------

REDACTED = [
    ("token=abc", "token=***"),
    ("a=1&token=abc&b=2", "a=1&token=***&b=2"),
    ("TOKEN=abc", "TOKEN=***"),
    ("tok%65n=abc&%74%6F%4b%65%6E=x", "tok%65n=***&%74%6F%4b%65%6E=***"),
    ("token=a;b#c?d&x=1", "token=***&x=1"),
    ("a=1;token=abc", "a=1;token=***"),
    ("next=/login?token=abc", "next=/login?token=***"),
    ("token=&key=1", "token=***&key=***"),
    ("tokens=1&toke=2&%=3&tok%zzen=4", "tokens=1&toke=2&%=3&tok%zzen=4"),
    ("token&=token&" + "n" * 70 + "=1", "token&=token&" + "n" * 70 + "=1"),
    ("token=%22%0a", "token=***"),
]


@pytest.mark.parametrize(("query", "shown"), REDACTED)
def test_secret_parameters_are_struck_out(query, shown):
    assert json.loads(Log().write(target=f"/p?{query}"))["query"] == shown
    assert json.loads(Log().write(referer=f"https://x/p?{query}"))["referer"] == f"https://x/p?{shown}"
    line = COMBINED.fullmatch(Log(format="combined").write(method="GET", target=f"/p?{query}", version=11))
    assert line["request"].decode() == f"GET /p?{shown} HTTP/1.1"


@given(st.text("ab&;=?#%", max_size=30), st.text("ab&;=?#%", max_size=30))
def test_no_secret_survives_whatever_surrounds_it(before, after):
    line = Log().write(target=f"/?{before}&token=SECRET{after}")
    assert b"SECRET" not in line
    json.loads(line)


def test_nothing_is_redacted_unless_named():
    assert json.loads(Log(redact=[]).write(target="/?token=abc"))["query"] == "token=abc"
    assert json.loads(Log(redact=["Card"]).write(target="/?card=4&token=abc"))["query"] == "card=***&token=abc"


def test_a_name_too_long_to_redact_is_refused():
    with pytest.raises(ValueError, match="longer than 64 bytes"):
        Log(redact=["n" * 65])


# --- combined -----------------------------------------------------------------------------------------------------


def test_a_combined_line_is_what_log_tools_parse():
    raw = Log(format="combined").write(**REQUEST)
    assert raw == (
        b'192.0.2.7 - - [21/Nov/2026:06:43:03 +0000] "GET /users/42?full=1 HTTP/1.1" 200 1099511627776'
        b' "https://example.com/" "curl/8"\n'
    )


def test_a_combined_line_of_a_request_that_was_none():
    assert COMBINED.fullmatch(Log(format="combined").write(status=400, client="::1")).groupdict() == {
        "client": b"::1",
        "time": b"01/Jan/1970:00:00:00 +0000",
        "request": b"-",
        "status": b"400",
        "bytes": b"0",
        "referer": b"-",
        "agent": b"-",
    }


@given(texts, texts)
def test_any_bytes_stay_inside_their_combined_field(agent, target):
    raw = Log(format="combined", redact=[]).write(status=200, method="GET", target=target, user_agent=agent)
    line = COMBINED.fullmatch(raw)
    assert line is not None
    shown = re.sub(rb"\\x(..)", lambda match: bytes.fromhex(match[1].decode()), line["agent"])
    assert shown == (agent or b"-")


def test_a_shortened_combined_field_ends_with_dots():
    line = COMBINED.fullmatch(Log(format="combined").write(status=200, user_agent="a" * 600))
    assert line["agent"] == b"a" * 512 + b"..."


# --- sampling -----------------------------------------------------------------------------------------------------


def test_sampling_keeps_its_share_of_successes():
    log = Log(sample=0.25)
    log.log.write_line(times=4000, status=200)
    assert 800 < log.reader.drain(0).count(b"\n") < 1200  # 7 standard deviations


@pytest.mark.parametrize("fields", [{"status": 400}, {"status": 499}, {"status": 503}, {"status": 200, "flag": "UC"}])
def test_sampling_keeps_every_error(fields):
    log = Log(sample=0)
    assert log.write(status=200, flag="-") == log.write(status=304, flag="LR") == b""
    assert log.write(**fields).count(b"\n") == 1


def test_a_log_that_is_off_has_no_writer():
    with pytest.raises(ValueError, match="off"):
        Log(format="off")


# --- ring ---------------------------------------------------------------------------------------------------------


def test_lines_wrap_around_the_ring_unharmed():
    log = Log()
    written = 0
    while written < 3 * cells.LOG_BYTES:
        agent = str(written) * 30
        raw = log.write(status=200, user_agent=agent)
        assert json.loads(raw)["user_agent"] == agent
        written += len(raw)
    assert log.dropped == 0


def test_a_full_ring_drops_whole_lines_and_counts_them():
    log = Log()
    log.log.write_line(times=20_000, **REQUEST)
    raw = log.reader.drain(0)
    lines = raw.splitlines()
    assert cells.LOG_BYTES - len(lines[0]) - 1 <= len(raw) <= cells.LOG_BYTES
    assert set(lines) == {lines[0]}
    assert len(lines) + log.dropped == 20_000
    assert json.loads(log.write(**REQUEST))["status"] == 200  # and there is room again


def test_a_new_writer_goes_on_where_the_last_one_stopped():
    log = Log()
    log.log.write_line(status=200)
    AccessLog(log.board, 0, Spec(format="combined")).write_line(status=201)
    first, second = log.reader.drain(0).splitlines()
    assert json.loads(first)["status"] == 200
    assert b" 201 " in second


def test_a_corrupt_ring_is_reported_once_and_emptied():
    log = Log()
    log.board.page.set(log.board.log_ring(0) + cells.LOG_TAIL, 1)
    with pytest.raises(RuntimeError, match="corrupt"):
        log.reader.drain(0)
    assert json.loads(log.write(status=200))["status"] == 200


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_reader_in_another_process_sees_every_line_once_and_in_order():
    log = Log(redact=[])
    producer = os.fork()
    if producer == 0:
        for i in range(30_000):
            log.log.write_line(status=200, bytes_out=i, user_agent="x" * (i % 200))
        os._exit(0)
    seen: list[int] = []
    done = False
    while True:
        for line in log.reader.drain(0).splitlines():
            entry = json.loads(line)
            assert entry.get("user_agent", "") == "x" * (entry["bytes_out"] % 200)
            seen.append(entry["bytes_out"])
        if done:
            break
        done = os.waitpid(producer, os.WNOHANG)[0] == producer
    assert seen == sorted(set(seen))
    assert len(seen) + log.dropped == 30_000


@given(st.text(max_size=50))
def test_json_text_is_the_inside_of_a_json_string(text):
    text = text.encode("utf-8", "replace").decode()
    assert json.loads(b'"' + json_text(text) + b'"') == text
