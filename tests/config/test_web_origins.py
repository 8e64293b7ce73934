"""Lists of origins: what browsers send is taken where it is listed, and nothing that merely looks like it."""

from __future__ import annotations

import pytest

from kairos.config.problems import Findings
from kairos.config.weborigin import WebOrigins, check_origins, check_patterns

TAKEN = [
    (["https://app.example.com"], [], "https://app.example.com"),
    (["https://app.example.com:8443"], [], "https://app.example.com:8443"),
    (["https://*.example.com"], [], "https://a.example.com"),
    (["https://*.example.com"], [], "https://a.b-c.example.com"),
    (["http://localhost:*"], [], "http://localhost:5173"),
    (["https://*.example.com:*"], [], "https://x.example.com:8443"),
    (["http://[::1]:3000"], [], "http://[::1]:3000"),
    (["null"], [], "null"),
    (["moz-extension://0123-abc"], [], "moz-extension://0123-abc"),
    ([], [r"https://pr-\d+\.preview\.example\.com"], "https://pr-12.preview.example.com"),
]
NOT_TAKEN = [
    (["https://app.example.com"], [], "http://app.example.com"),
    (["https://app.example.com"], [], "https://app.example.com:8443"),
    (["https://app.example.com"], [], "https://app.example.com.evil.test"),
    (["https://*.example.com"], [], "https://example.com"),
    (["https://*.example.com"], [], "https://.example.com"),
    (["https://*.example.com"], [], "https://a..example.com"),
    (["https://*.example.com"], [], "https://evilexample.com"),
    (["https://*.example.com"], [], "https://evil.test/.example.com"),
    (["https://*.example.com"], [], "https://evil.test#.example.com"),
    (["https://*.example.com"], [], "https://user@a.example.com"),
    (["https://*.example.com"], [], "https://a.example.com.evil.test"),
    (["https://*.example.com"], [], "https://a.exampleXcom"),
    (["https://*.example.com"], [], "https://a.example.com:8443"),
    (["http://localhost:*"], [], "http://localhost"),
    (["http://localhost:*"], [], "http://localhost:80.evil.test"),
    (["*"], [], "https://anybody.test"),  # what `*` means is for whoever asks
    (["https://app.example.com"], [".*"], "null"),
    ([], ["https://[a-z]+"], "https://abc\n"),
    ([], [r"https://\w+\.example\.com"], "https://a.example.com.evil.test"),
    ([], [r"https://\w+\.example\.com"], "xhttps://a.example.com"),
    ([], [".*"], "https://" + "a" * 600),
]


@pytest.mark.parametrize(("listed", "patterns", "origin"), TAKEN)
def test_taken(listed: list[str], patterns: list[str], origin: str) -> None:
    assert WebOrigins(listed, patterns).lists(origin)


@pytest.mark.parametrize(("listed", "patterns", "origin"), NOT_TAKEN)
def test_not_taken(listed: list[str], patterns: list[str], origin: str) -> None:
    assert not WebOrigins(listed, patterns).lists(origin)


MISTAKES = [
    ("https://app.example.com/", "write https://app.example.com"),
    ("https://APP.example.com", "write https://app.example.com"),
    ("app.example.com", "is no origin"),
    ("https://app.example.com/path", "is no origin"),
    ("https://app.example.com:443", "leave out the port of https: write https://app.example.com"),
    ("http://app.example.com:80", "write http://app.example.com"),
    ("https://*", "is no origin"),
    ("https://*.com", "every name below .com"),
    ("https://a.*.example.com", "is no origin"),
    ("*.example.com", "is no origin"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_mistakes_are_told_with_what_to_write(text: str, said: str) -> None:
    found = Findings()
    check_origins([text], ("cors", "allowed_origins"), found, stars=True)
    (problem,) = found.problems
    assert problem.path == "cors.allowed_origins[0]"
    assert said in problem.message


def test_stars_where_they_have_no_meaning() -> None:
    found = Findings()
    check_origins(["*", "null", "https://a.test"], ("csrf", "trusted_origins"), found, stars=False)
    assert [problem.path for problem in found.problems] == ["csrf.trusted_origins[0]", "csrf.trusted_origins[1]"]


def test_patterns_have_to_compile_and_to_name_somebody() -> None:
    found = Findings()
    check_patterns(["https://(", r"https://.*", r"https://\w+\.example\.com", r"(?=a)"], ("p",), found)
    assert [(problem.severity, problem.path) for problem in found.problems] == [
        ("error", "p[0]"), ("warning", "p[1]"), ("error", "p[3]"),
    ]  # fmt: skip
