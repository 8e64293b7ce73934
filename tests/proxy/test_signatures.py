"""HTTP message signatures: the RFCs' own examples, and every way to get around them that is known."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.proxy.signatures import (
    Message,
    Signature,
    SignatureError,
    base,
    check_covered,
    check_digest,
    check_time,
    digest_field,
    matches,
    sign,
    signatures_of,
)
from kairos.proxy.structured import write_bare, write_item

SECRET = base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
"""test-shared-secret of RFC 9421 appendix B.1.5."""
SHA_512 = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
BODY = b'{"hello": "world"}'
REQUEST = Message(
    "POST",
    "https",
    "example.com",
    "/foo?param=Value&Pet=dog",
    [
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        ("content-digest", SHA_512),
        ("content-length", "18"),
    ],
)
"""test-request of appendix B.2."""


def covering(*names: Any, **parameters: Any) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    return [name if isinstance(name, tuple) else (name, {}) for name in names], {"created": 1618884473, **parameters}


def signed(message: Message, *names: Any, secret: bytes = SECRET, **parameters: Any) -> Signature:
    covered = covering(*names, **parameters)
    inputs, value = f"sig={write_item(covered)}", f"sig={write_bare(sign(covered, message, secret))}"
    return signatures_of(inputs, value)[0]


def lines(*names: Any, message: Message = REQUEST) -> list[str]:
    """The signature base without its last line."""
    return base(covering(*names), message).decode("latin-1").splitlines()[:-1]


# --- the RFCs' examples ----------------------------------------------------------------------------------------------


def test_rfc_9421_appendix_b_2_5() -> None:
    (signature,) = signatures_of(
        'sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"',
        "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
    )
    assert base(signature.covered, REQUEST).decode() == (
        '"date": Tue, 20 Apr 2021 02:07:55 GMT\n'
        '"@authority": example.com\n'
        '"content-type": application/json\n'
        '"@signature-params": ("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    )
    assert signature.key_id == "test-shared-secret"
    assert matches(signature, REQUEST, SECRET)


def test_rfc_9421_section_2_5() -> None:
    fields = [*REQUEST.fields[:1], ("date", "Tue, 20 Apr 2021 02:07:55 GMT"), *REQUEST.fields[2:]]
    message = REQUEST._replace(fields=fields)
    covered = covering(
        "@method", "@authority", "@path", "content-digest", "content-length", "content-type", keyid="test-key-rsa-pss"
    )
    assert base(covered, message).decode() == (
        '"@method": POST\n'
        '"@authority": example.com\n'
        '"@path": /foo\n'
        f'"content-digest": {SHA_512}\n'
        '"content-length": 18\n'
        '"content-type": application/json\n'
        '"@signature-params": ("@method" "@authority" "@path" "content-digest" "content-length" "content-type")'
        ';created=1618884473;keyid="test-key-rsa-pss"'
    )


def test_rfc_9421_section_2_1_fields_are_joined_and_stripped() -> None:
    message = REQUEST._replace(
        fields=[
            ("x-ows", "   Leading and trailing whitespace.\t  "),
            ("cache-control", "max-age=60"),
            ("cache-control", "   must-revalidate"),
            ("x-empty", ""),
            ("example-dict", "a=1,    b=2;x=1;y=2,   c=(a   b   c)"),
        ]
    )
    assert lines("x-ows", "cache-control", "x-empty", message=message) == [
        '"x-ows": Leading and trailing whitespace.',
        '"cache-control": max-age=60, must-revalidate',
        '"x-empty": ',
    ]
    members = [("example-dict", {"key": key}) for key in "bc"]
    assert lines(*members, message=message) == [
        '"example-dict";key="b": 2;x=1;y=2',
        '"example-dict";key="c": (a b c)',
    ]
    assert lines(("cache-control", {"bs": True}), message=message) == [
        '"cache-control";bs: :bWF4LWFnZT02MA==:, :bXVzdC1yZXZhbGlkYXRl:'
    ]


def test_rfc_9421_section_2_2_derived_components() -> None:
    message = REQUEST._replace(authority="WWW.Example.com:443", target="/path?param=value&foo=bar&baz=batman&qux=")
    assert lines("@method", "@authority", "@scheme", "@target-uri", "@request-target", "@path", message=message) == [
        '"@method": POST',
        '"@authority": www.example.com',
        '"@scheme": https',
        '"@target-uri": https://www.example.com/path?param=value&foo=bar&baz=batman&qux=',
        '"@request-target": /path?param=value&foo=bar&baz=batman&qux=',
        '"@path": /path',
    ]
    parameters = [("@query-param", {"name": name}) for name in ("baz", "qux", "param")]
    assert lines("@query", *parameters, message=message) == [
        '"@query": ?param=value&foo=bar&baz=batman&qux=',
        '"@query-param";name="baz": batman',
        '"@query-param";name="qux": ',
        '"@query-param";name="param": value',
    ]
    assert lines("@query", message=REQUEST._replace(target="/path")) == ['"@query": ?']


def test_rfc_9421_section_2_2_8_parameters_are_encoded_again() -> None:
    target = "/parameters?var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=x"
    message = REQUEST._replace(target=target)
    parameters = [("@query-param", {"name": name}) for name in ("var", "bar", "fa%C3%A7ade%22%3A%20")]
    assert lines(*parameters, message=message) == [
        '"@query-param";name="var": this%20is%20a%20big%0Amultiline%20value',
        '"@query-param";name="bar": with%20plus%20whitespace',
        '"@query-param";name="fa%C3%A7ade%22%3A%20": x',
    ]


def test_rfc_9530_digests() -> None:
    check_digest(SHA_512, BODY)
    check_digest("sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:", BODY)
    assert digest_field(BODY) == "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
    check_digest(f"md5=:AAAA:, {digest_field(b'', ['sha-256', 'sha-512'])}", b"")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_was_signed_may_not_change() -> None:
    names = ("@method", "@authority", "@path", "@query", "content-digest")
    signature = signed(REQUEST, *names)
    assert matches(signature, REQUEST, SECRET)
    changes: list[dict[str, Any]] = [
        {"method": "GET"},
        {"authority": "example.org"},
        {"target": "/fooo?param=Value&Pet=dog"},
        {"target": "/foo?param=Value&Pet=cat"},
        {"target": "/foo"},
        {"target": "/%66oo?param=Value&Pet=dog"},
        {"fields": [("content-digest", SHA_512.replace("W", "X"))]},
        {"fields": [*REQUEST.fields, ("content-digest", SHA_512)]},
    ]
    for change in changes:
        assert not matches(signature, REQUEST._replace(**change), SECRET), change
    assert not matches(signature, REQUEST, SECRET + b"x")


def test_how_it_was_signed_may_not_change() -> None:
    signature = signed(REQUEST, "@method", keyid="a", nonce="1")
    components, parameters = signature.covered
    for change in ({"created": 1618884474}, {"keyid": "b"}, {"nonce": "2"}, {"expires": 9}):
        assert not matches(signature._replace(covered=(components, {**parameters, **change})), REQUEST, SECRET)


@pytest.mark.parametrize(
    "component",
    [
        "@status",
        "@unknown",
        "@path-param",
        "missing",
        "Date",
        ("@method", {"req": True}),
        ("date", {"sf": True}),
        ("date", {"tr": True}),
        ("date", {"key": "a", "bs": True}),
        ("date", {"key": "a"}),
        ("content-digest", {"key": "none"}),
        ("@query-param", {}),
        ("@query-param", {"name": "none"}),
        ("@query-param", {"name": 7}),
        ("@query-param", {"name": "Pet", "req": True}),
    ],
)
def test_components_that_cannot_be_told(component: Any) -> None:
    with pytest.raises(SignatureError):
        base(covering(component), REQUEST)


def test_a_parameter_that_occurs_twice_is_refused() -> None:
    with pytest.raises(SignatureError, match="2 times"):
        lines(("@query-param", {"name": "a"}), message=REQUEST._replace(target="/?a=1&a=2"))


def test_a_component_covered_twice_is_refused() -> None:
    with pytest.raises(SignatureError, match="twice"):
        lines("date", "date")


def test_another_algorithm_is_refused() -> None:
    for algorithm in ("none", "rsa-pss-sha512", "hmac-sha1", 1, True):
        with pytest.raises(SignatureError, match="algorithm"):
            matches(signed(REQUEST, "date", alg=algorithm), REQUEST, SECRET)
    assert matches(signed(REQUEST, "date", alg="hmac-sha256"), REQUEST, SECRET)


@pytest.mark.parametrize(
    ("inputs", "values"),
    [
        ("", ""),
        ("a=()", "b=:AA==:"),
        ("a=(), b=()", "a=:AA==:"),
        ("a=()", "a=:AA==:, b=:AA==:"),
        ("a=1", "a=:AA==:"),
        ("a", "a=:AA==:"),
        ("a=()", "a=AA"),
        ("a=()", 'a="AA"'),
        ("a=()", "a=(:AA==:)"),
        ("a=(", "a=:AA==:"),
        ("a=()", "a=:A*:"),
        ("a=(date)", "a=:AA==:"),
        ("a=(1)", "a=:AA==:"),
        (", ".join(f"a{n}=()" for n in range(5)), ", ".join(f"a{n}=:AA==:" for n in range(5))),
        ("a=(" + " ".join(['"x"'] * 65) + ")", "a=:AA==:"),
    ],
)
def test_malformed_fields(inputs: str, values: str) -> None:
    with pytest.raises(SignatureError):
        signatures_of(inputs, values)


NOW = 1_618_884_500.0


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, None),
        ({"created": 1618884400}, None),
        ({"created": 1618884169}, "expired"),
        ({"created": 1618884170}, None),
        ({"created": 1618884530}, None),
        ({"created": 1618884531}, "future"),
        ({"expires": 1618884470}, None),
        ({"expires": 1618884469}, "expired"),
        ({"created": 1.5}, "number"),
        ({"created": "1618884473"}, "number"),
        ({"created": True}, "number"),
        ({"expires": "never"}, "number"),
    ],
)
def test_how_old_it_may_be(parameters: dict[str, Any], reason: str | None) -> None:
    signature = Signature("sig", covering("date", **parameters), b"")
    if reason is None:
        return check_time(signature, NOW, max_age=300, skew=30)
    with pytest.raises(SignatureError, match=reason):
        check_time(signature, NOW, max_age=300, skew=30)


def test_one_without_a_time_is_refused() -> None:
    with pytest.raises(SignatureError, match="created"):
        check_time(Signature("sig", ([("date", {})], {}), b""), NOW, 300, 30)


def test_all_that_has_to_be_covered() -> None:
    required = ["@method", "@authority", "@path", "@query"]
    check_covered(signed(REQUEST, *required), required)
    check_covered(signed(REQUEST, "@method", "@target-uri"), required)
    check_covered(signed(REQUEST, "@method", "@authority", "@request-target"), required)
    with pytest.raises(SignatureError, match="@query"):
        check_covered(signed(REQUEST, "@method", "@authority", "@path"), required)
    with pytest.raises(SignatureError, match="@query"):
        check_covered(signed(REQUEST, "@method", "@authority", "@path", ("@query-param", {"name": "Pet"})), required)
    with pytest.raises(SignatureError, match="content-digest"):
        check_covered(signed(REQUEST, ("content-digest", {"key": "sha-512"})), ["content-digest"])


@pytest.mark.parametrize(
    "field",
    [
        SHA_512.replace("WZ", "WX"), "", "md5=:AAAA:", "sha-256", "sha-256=AAAA", 'sha-256="AAAA"', "sha-256=::",
        f"sha-256=:AAAA:, {SHA_512}", "sha-256=:", "SHA-256=:AAAA:",
    ],
)  # fmt: skip
def test_digests_that_are_not_the_bodys(field: str) -> None:
    with pytest.raises(SignatureError):
        check_digest(field, BODY)


@given(
    st.text(st.sampled_from('a=("@path");,created1:Aé \\'), max_size=40),
    st.text(st.sampled_from("a=:A,;"), max_size=20),
)
def test_anything_is_read_or_refused(inputs: str, values: str) -> None:
    try:
        for signature in signatures_of(inputs, values):
            assert not matches(signature, REQUEST, SECRET)
            check_time(signature, NOW, 300, 30)
    except SignatureError:
        pass
