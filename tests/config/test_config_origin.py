"""Backends taken apart: scheme, host, port, what Host says, and the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.config.model import Backend
from kairos.config.origin import Origin, OriginError, parse_backend

ORIGINS = [
    ("http", "http://h", None, Origin("http", "h", 80, False, None, b"h", "http://h:80")),
    ("http", "http://h", 8080, Origin("http", "h", 8080, False, None, b"h:8080", "http://h:8080")),
    ("http", "http://h:8080", None, Origin("http", "h", 8080, False, None, b"h:8080", "http://h:8080")),
    ("http", "http://h:8080/", 8080, Origin("http", "h", 8080, False, None, b"h:8080", "http://h:8080")),
    ("http", "HTTPS://H.Example/", None, Origin("https", "h.example", 443, True, None, b"h.example", "https://h.example:443")),
    ("http", "https://h", 80, Origin("https", "h", 80, True, None, b"h:80", "https://h:80")),
    ("http", "http://app_http", 80, Origin("http", "app_http", 80, False, None, b"app_http", "http://app_http:80")),
    ("http", "http://[::1]", 81, Origin("http", "::1", 81, False, None, b"[::1]:81", "http://[::1]:81")),
    ("http", "http://[0:0::1]:82", None, Origin("http", "::1", 82, False, None, b"[::1]:82", "http://[::1]:82")),
    ("http", "http://hö", None, Origin("http", "xn--h-1ga", 80, False, None, b"xn--h-1ga", "http://xn--h-1ga:80")),
    ("http", "unix:/run/a.s", None, Origin("http", "", 0, False, "/run/a.s", b"localhost", "unix:/run/a.s")),
    ("http", "unix:///run/a", None, Origin("http", "", 0, False, "/run/a", b"localhost", "unix:/run/a")),
    ("websocket", "ws://h", None, Origin("ws", "h", 80, False, None, b"h", "ws://h:80")),
    ("websocket", "wss://h", None, Origin("wss", "h", 443, True, None, b"h", "wss://h:443")),
    ("websocket", "https://h", None, Origin("https", "h", 443, True, None, b"h", "https://h:443")),
    ("ftp", "ftps://h", None, Origin("ftps", "h", 990, True, None, b"h", "ftps://h:990")),
    ("ftp", "h", None, Origin("ftp", "h", 21, False, None, b"h", "ftp://h:21")),
    ("dns", "9.9.9.9", None, Origin("dns", "9.9.9.9", 53, False, None, b"9.9.9.9", "dns://9.9.9.9:53")),
    ("dns", "2620:fe::fe", 54, Origin("dns", "2620:fe::fe", 54, False, None, b"[2620:fe::fe]:54", "dns://[2620:fe::fe]:54")),
    ("dns", "udp://h", None, Origin("udp", "h", 53, False, None, b"h", "udp://h:53")),
    ("dns", "tcp://h", 54, Origin("tcp", "h", 54, False, None, b"h:54", "tcp://h:54")),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "host", "port", "origin"), ORIGINS, ids=[row[1] for row in ORIGINS])
def test_origins(protocol, host, port, origin):
    assert parse_backend(Backend(host, port), protocol) == origin


REFUSED = [
    ("http", "", None), ("http", "h", None), ("http", "http://", None), ("http", "http://:80", None),
    ("http", "http://h:", None), ("http", "http://h:99999", None), ("http", "http://h:8x", None),
    ("http", "http://h:1:2", None), ("http", "http://::1", None), ("http", "http://[::1", None),
    ("http", "http://[x]", None), ("http", "http://[fe80::1%eth0]", None), ("http", "http://[1.2.3.4]", None),
    ("http", "http://a b", None), ("http", "http://a\r\nb", None), ("http", "http://a%2fb", None),
    ("http", "http://a..b", None), ("http", "http://h//", None), ("http", "http://h\\x", None),
    ("http", "http://h:80", 81), ("http", "unix:/x", 80), ("http", "unix:", None), ("http", "unix:x", None),
    ("http", "unix:/" + "x" * 107, None), ("ftp", "unix:/x", None), ("ftp", "http://h", None),
    ("dns", "https://h", None), ("dns", "ws://h", None), ("http", "http://" + "ö" * 300, None),
    ("http", "javascript:x", None),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "host", "port"), REFUSED, ids=[repr(row[1])[:30] for row in REFUSED])
def test_refused(protocol, host, port):
    with pytest.raises(OriginError):
        parse_backend(Backend(host, port), protocol)


@given(st.sampled_from(["http://", "", "unix:"]), st.text(max_size=20), st.none() | st.integers(1, 65535))
def test_what_goes_into_a_head_is_one_plain_word(scheme, text, port):
    try:
        origin = parse_backend(Backend(scheme + text, port), "http")
    except OriginError:
        return
    assert origin.authority.decode("ascii").isprintable()
    assert not set(origin.authority) & set(b" /?#@\\,")
