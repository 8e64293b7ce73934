"""Signed requests through the gateway: what passes, what does not, and once only where a nonce says so."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kairos.config.mask import masked
from kairos.config.problems import ConfigError
from kairos.proxy.filters.authn.signature import Nonces
from kairos.proxy.signatures import Message, digest_field, sign
from kairos.proxy.structured import write_bare, write_item
from kairos.scoreboard import Scoreboard
from tests.support.gateway import route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import echo, origin, status_of
from tests.support.ws import header

SECRET = "a secret of more than thirty-two bytes, for tests"
USUAL = ("@method", "@authority", "@path", "@query")


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


def document(url: str, **settings: Any) -> dict[str, Any]:
    keys = [{"id": "one", "secret": SECRET, "subject": "acme", "claims": {"plan": "gold"}}]
    return {
        "auth": {"methods": ["signature"], "claims_to_headers": {"sub": "X-User", "plan": "X-Plan"}},
        "signatures": {"keys": keys, **settings},
        "routers": [route("/a/{rest:path}", url, "/a/{rest}")],
    }


def request(
    target: str = "/a/x?q=1",
    *covered: str,
    method: str = "GET",
    body: bytes = b"",
    lines: tuple[str, ...] = (),
    secret: str = SECRET,
    signed_as: dict[str, Any] | None = None,
    **parameters: Any,
) -> bytes:
    """A request with its signature; `signed_as` is what the signer believed it to be."""
    fields = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
    if body and "content-digest" not in dict(fields):
        fields.append(("content-digest", digest_field(body)))
        covered = (*(covered or USUAL), "content-digest")
    message = Message(method, "http", "test", target, fields)._replace(**(signed_as or {}))
    given = {"created": int(time.time()), "keyid": "one", **parameters}
    item = (
        [(name, {}) for name in covered or USUAL],
        {name: value for name, value in given.items() if value is not None},
    )
    value = sign(item, message, secret.encode())
    fields += [("signature-input", f"sig={write_item(item)}"), ("signature", f"sig={write_bare(value)}")]
    head = [f"{method} {target} HTTP/1.1", "Host: test", *(f"{name}: {value}" for name, value in fields)]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def ask(served: InProcess, data: bytes) -> tuple[int, str, bytes]:
    """Status, why not, and what the backend got."""
    head, body = served.request(data)
    status = status_of(head)
    return (status, "", body) if status == 200 else (status, str(json.loads(body)["detail"]), head)


def test_a_signed_request_passes_and_tells_the_backend_who_signed(backend: str) -> None:
    with serving(document(backend)) as served:
        status, _, seen = ask(served, request(lines=("X-User: root",)))
        assert status == 200
        assert (header(seen, b"x-user"), header(seen, b"x-plan")) == (b"acme", b"gold")


def test_without_a_signature(backend: str) -> None:
    with serving(document(backend)) as served:
        status, _, head = ask(served, b"GET /a/x HTTP/1.1\r\nHost: test\r\n\r\n")
        assert status == 401
        assert header(head, b"www-authenticate") == b'Signature realm="kairos", algorithm="hmac-sha256"'


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"secret": SECRET + "x"}, "not that of a known key"),
        ({"keyid": "two"}, "not that of a known key"),
        ({"keyid": None}, "not that of a known key"),
        ({"keyid": 1}, "not that of a known key"),
        ({"signed_as": {"method": "POST"}}, "not that of a known key"),
        ({"signed_as": {"target": "/a/y?q=1"}}, "not that of a known key"),
        ({"signed_as": {"target": "/a/x?q=2"}}, "not that of a known key"),
        ({"signed_as": {"authority": "other"}}, "not that of a known key"),
        ({"created": None}, "does not say when"),
        ({"created": 1618884473}, "expired"),
        ({"created": 4_000_000_000}, "future"),
        ({"expires": 1618884473}, "expired"),
        ({"alg": "hmac-sha1"}, "algorithm"),
    ],
)
def test_what_does_not_pass(backend: str, made: dict[str, Any], reason: str) -> None:
    with serving(document(backend)) as served:
        status, why, _ = ask(served, request(**made))
        assert status == 401
        assert reason in why


@pytest.mark.parametrize("left_out", USUAL)
def test_all_that_is_required_has_to_be_covered(backend: str, left_out: str) -> None:
    with serving(document(backend)) as served:
        status, why, _ = ask(served, request("/a/x", *(name for name in USUAL if name != left_out)))
        assert (status, why) == (401, f"the signature has to cover {left_out}")


def test_the_path_is_signed_as_it_was_sent(backend: str) -> None:
    """Written in another way that means the same, it is another one."""
    with serving(document(backend)) as served:
        assert ask(served, request("/a/%7Ex/../y"))[0] == 200
        assert ask(served, request("/a/%7Ex", signed_as={"target": "/a/~x"}))[0] == 401


def test_a_field_may_be_required(backend: str) -> None:
    with serving(document(backend, required=["@method", "@target-uri", "x-tenant"])) as served:
        covered = ("@method", "@target-uri", "x-tenant")
        assert ask(served, request("/a/x", *covered, lines=("X-Tenant: 7",)))[0] == 200
        assert ask(served, request("/a/x", *covered[:2], lines=("X-Tenant: 7",)))[0] == 401


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 70_000])
def test_a_body_is_compared_with_its_digest_and_goes_on(backend: str, size: int) -> None:
    body = b"b" * size
    with serving(document(backend)) as served:
        status, _, seen = ask(served, request(method="POST", body=body))
        assert status == 200
        assert seen.endswith(b"\r\n\r\n" + body)


def test_a_chunked_body(backend: str) -> None:
    data = request(method="POST", body=b"hello").replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    with serving(document(backend)) as served:
        assert ask(served, data.replace(b"hello", b"5\r\nhello\r\n0\r\n\r\n"))[0] == 200
        assert ask(served, data.replace(b"hello", b"5\r\nhullo\r\n0\r\n\r\n"))[0] == 401


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (request(method="POST", body=b"hello").replace(b"hello", b"hullo"), "not the one of Content-Digest"),
        (request(method="POST", body=b"hello", lines=(f"Content-Digest: {digest_field(b'hello')}",)), "has to cover"),
        (
            request(method="POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"),
            "has to cover content-digest",
        ),
        (
            request("/a/x", *USUAL, "content-digest", lines=(f"Content-Digest: {digest_field(b'hello')}",)),
            "not the one",
        ),
        (request("/a/x", *USUAL, "content-digest", lines=("Content-Digest: md5=:AAAA:",)), "needs one of sha-256"),
    ],
)
def test_bodies_that_are_not_what_was_signed(backend: str, data: bytes, reason: str) -> None:
    with serving(document(backend)) as served:
        status, why, _ = ask(served, data)
        assert status == 401
        assert reason in why


def test_a_body_too_large_to_be_held(backend: str) -> None:
    with serving(document(backend, body_bytes=1000)) as served:
        assert ask(served, request(method="POST", body=b"b" * 1000))[0] == 200
        assert ask(served, request(method="POST", body=b"b" * 1001))[0] == 413


def test_digests_are_a_matter_of_choice(backend: str) -> None:
    data = request(method="POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi")
    with serving(document(backend, body_digest=False)) as served:
        assert ask(served, data)[0] == 200


# --- once ------------------------------------------------------------------------------------------------------------


def test_a_nonce_is_good_once(backend: str) -> None:
    with serving(document(backend)) as served:
        data = request(nonce="n1")
        assert ask(served, data)[0] == 200
        assert ask(served, data)[:2] == (401, "the signature was used already")
        assert ask(served, request(nonce="n1"))[0] == 401
        assert ask(served, request(nonce="n2"))[0] == 200
        served.configure(document(backend, max_age=200))
        assert ask(served, data)[0] == 401


def test_workers_share_their_nonces() -> None:
    """What one process saw, another refuses; keys do not share."""
    board = Scoreboard.create(workers=2, routes=1, pairs=1, upstreams=1)
    if (child := os.fork()) == 0:
        os._exit(0 if Nonces(board, 60).use("one", "n1") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    nonces = Nonces(board, 60)
    assert not nonces.use("one", "n1")
    assert nonces.use("two", "n1")
    assert nonces.use("one", "n2")
    assert nonces.use("on", "en1")


def test_only_good_signatures_use_their_nonce_up(backend: str) -> None:
    with serving(document(backend)) as served:
        assert ask(served, request(nonce="n1", secret=SECRET + "x"))[0] == 401
        assert ask(served, request(nonce="n1"))[0] == 200


def test_a_nonce_may_be_required(backend: str) -> None:
    with serving(document(backend, require_nonce=True)) as served:
        assert ask(served, request())[:2] == (401, "the signature has no nonce")
        assert ask(served, request(nonce="n"))[0] == 200


# --- broken input and settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ("Signature: sig=:AA==:",),
        ('Signature-Input: sig=("@method")',),
        ("Signature: ", "Signature-Input: "),
        ("Signature: x=:AA==:", 'Signature-Input: sig=("@method");keyid="one"'),
        ("Signature: sig=:AA==:", 'Signature-Input: sig=("@method" "@nonsense");keyid="one";created=1'),
        ("Signature: sig=:AA==:", 'Signature-Input: sig=("\\"");keyid="one"'),
        ("Signature: sig=:\x80:", 'Signature-Input: sig=("é");keyid="one"'),
        ("Signature: sig=:AA==:", "Signature-Input: " + "(" * 3000),
    ],
)
def test_broken_fields(backend: str, lines: tuple[str, ...]) -> None:
    with serving(document(backend)) as served:
        head = "\r\n".join(["GET /a/x HTTP/1.1", "Host: test", *lines, "", ""])
        assert ask(served, head.encode("latin-1"))[0] == 401
        assert served.reports == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": []}, r"signatures\.keys: lists no key"),
        ({"keys": [{"id": "a", "secret": "short"}]}, r"signatures\.keys\[0\]\.secret: is shorter than 32 bytes"),
        ({"keys": [{"id": "a", "secret": SECRET}] * 2}, r"signatures\.keys\[1\]\.id: 'a' is there twice"),
        ({"required": ["@status"]}, r"signatures\.required\[0\]: '@status' is none of"),
        ({"required": ["@method", "X-Tenant"]}, r"signatures\.required\[1\]: 'X-Tenant' is no field name"),
        ({"max_age": 0}, r"signatures\.max_age"),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(document("http://127.0.0.1:1", **settings))


def test_secrets_are_not_shown() -> None:
    assert SECRET not in json.dumps(masked(checked(document("http://127.0.0.1:1"))))
