"""Sources, templates, conditions and replacement texts: what is read, and where an error is told to be."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.config.conditions import AllOf, AnyOf, Compare, Matches, Not, OneOf, Present, parse_condition
from kairos.config.regex import Regex, Replacement
from kairos.config.values import REQUEST, RESPONSE, Source, parse_template


def parts(text: str, allowed: frozenset[str] = REQUEST) -> list[object]:
    return list(parse_template(text, allowed).parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("plain {text} }}", ["plain {text} }}"]),
        ("{{ params.id }}", [(Source("params", ("id",)),)]),
        ("{{params.id}}-{{ method }}", [(Source("params", ("id",)),), "-", (Source("method"),)]),
        ("{{ headers.X-User-Id }}", [(Source("headers", ("x-user-id",)),)]),
        ("{{ header('X-User') }}", [(Source("headers", ("x-user",)),)]),
        ("{{ query('a b') }}", [(Source("query", ("a b",)),)]),
        ("{{ claims.realm.roles.0 }}", [(Source("claims", ("realm", "roles", 0)),)]),
        ("{{ claims[\"https://e.org/}}role\"] }}", [(Source("claims", ("https://e.org/}}role",)),)]),
        ("{{ claims.sub ?? headers.x ?? 'no \\'one' }}", [
            (Source("claims", ("sub",)), Source("headers", ("x",)), "no 'one"),
        ]),
        ("a{{ '{{' }}b", ["a{{b"]),
        ("{{ params.2nd }}", [(Source("params", ("2nd",)),)]),
    ],
)  # fmt: skip
def test_a_template_is_texts_and_values(text, expected):
    assert parts(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {{ params.id", "'}}' is missing at its end"),
        ("{{ }}", "a value is missing at its end"),
        ("{{ param.id }}", r"param\('name'\) is how that is written, at character 9"),
        ("{{ nothing.id }}", "'nothing' is not known: use one of .* at character 4"),
        ("{{ status }}", "'status' is not known yet where this is used, at character 4"),
        ("{{ params }}", "'params' needs a name behind it"),
        ("{{ method.x }}", "'method' has nothing behind it"),
        ("{{ headers.a.b }}", "'headers' has one name behind it"),
        ("{{ params.id params.no }}", r"does not belong here: at character 14 \(before 'params.no '\)"),
        ("{{ headers['é'] }}", "no header has such a name"),
        ("{{ params. }}", "a name is missing"),
        ("{{ params[x] }}", "a quoted name or a number is missing"),
        ("{{ header(3) }}", "a name is missing at character 11"),
        ("{{ method # }}", "cannot be read at character 11"),
    ],
)
def test_errors_tell_where(text, message):
    with pytest.raises(ValueError, match=message):
        parse_template(text)


def test_answers_know_more():
    assert parts("{{ status }}", RESPONSE) == [(Source("status"),)]


def test_constants_are_seen():
    assert parse_template("a {{ 'b' }} c").constant == "a b c"
    assert parse_template("a {{ method }}").constant is None
    assert parse_template("{{ claims }}").single == (Source("claims"),)
    assert parse_template("x{{ claims }}").single is None


PATH, METHOD = (Source("path"),), (Source("method"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path == '/health'", Compare(PATH, "==", ("/health",), False)),
        ("status >= 500", Compare((Source("status"),), ">=", ("500",), True)),
        ("header('x-beta')", Present((Source("headers", ("x-beta",)),))),
        ("not method == 'GET'", Not(Compare(METHOD, "==", ("GET",), False))),
        ("!method", Not(Present(METHOD))),
        ("path =~ '^/v[0-9]+/'", Matches(PATH, Regex("^/v[0-9]+/"))),
        ("path !~ 'x'", Not(Matches(PATH, Regex("x")))),
        ("method in ('GET', 'HEAD')", OneOf(METHOD, ("GET", "HEAD"))),
        ("method and path or host", AnyOf((AllOf((Present(METHOD), Present(PATH))), Present((Source("host"),))))),
        ("method && (path || host)", AllOf((Present(METHOD), AnyOf((Present(PATH), Present((Source("host"),))))))),
        ("cookie('v') ?? query('v') == 'b'", Compare((Source("cookies", ("v",)), Source("query", ("v",))), "==", ("b",),
                                                     False)),
    ],
)  # fmt: skip
def test_a_condition_is_a_tree(text, expected):
    assert parse_condition(text, RESPONSE) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a value is missing at its end"),
        ("path ==", "a value is missing at its end"),
        ("path = '/x'", "cannot be read at character 6"),
        ("(path", r"'\)' is missing at its end"),
        ("path =~ '('", "no regular expression: missing \\): \\( at character 1"),
        ("path =~ method", "a quoted text is missing at character 9"),
        ("method in 'GET'", r"'\(' is missing at character 11"),
        ("path method", "does not belong here: at character 6"),
        ("status == 200", "'status' is not known yet"),
        ("(" * 99 + "path" + ")" * 99, "is nested too deeply"),
        ("!" * 99 + "path", "is nested too deeply"),
        ("pfad == '/'", "'pfad' is not known"),
    ],
)
def test_bad_conditions_are_told(text, message):
    with pytest.raises(ValueError, match=message):
        parse_condition(text)


@given(st.text(alphabet="{}'\"\\.?[]()=!<>&|~ abc019-", max_size=40))
def test_no_text_does_worse_than_an_error(text):
    for parse in (parse_template, parse_condition):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("pattern", "replacement", "text", "expected"),
    [
        (r"Mozilla/(\d+\.\d+)", "KairosGateway/5.0 (compatible)", "Mozilla/5.0 x", "KairosGateway/5.0 (compatible) x"),
        (r"/api/v1/(.+)", "/v2/$1", "/api/v1/users", "/v2/users"),
        (r"^/a/(\w+)/(\w+)$", "/${2}x/$1", "/a/b/c", "/cx/b"),
        (r"(a)", "$1x", "a", ""),
        (r"(a)", "${1}x", "a", "ax"),
        (r"(?P<first>a)(?<second>b)?", "${second}$first", "ab", "ba"),
        (r"(?P<first>a)(?<second>b)?", "[$second]$first", "a", "[]a"),
        (r"a", "$$1", "a", "$1"),
        (r"a", "$", "a", "$"),
        (r"a", "$-", "a", "$-"),
        (r"a", "${", "a", "${"),
        (r"a", "$0$0", "a", "aa"),
        (r"a", "$9", "a", ""),
        (r"b*", "-", "abc", "-a-c-"),
        (r"é", "$0!", "né", "né!"),
        (r"x*", "-", "é", "-é-"),
    ],
)
def test_replacements_are_spelled_as_in_rust(pattern, replacement, text, expected):
    regex = Regex(pattern)
    assert regex.replace(text.encode(), Replacement(parse_template(replacement), regex)).decode() == expected


def test_the_first_match_alone_can_be_replaced():
    regex = Regex("a")
    assert regex.replace(b"aaa", Replacement(parse_template("b"), regex), 1) == b"baa"


def test_values_in_a_replacement_are_filled_in():
    regex = Regex("(a)")
    replacement = Replacement(parse_template("$1{{ method }}$1"), regex)
    assert regex.replace(b"-a-", replacement, fill=lambda value: repr(value[0].name).encode()) == b"-a'method'a-"
    assert replacement.values == [(Source("method"),)]


def test_groups_that_are_not_there_are_named():
    regex = Regex(r"(a)(?P<b>b)")
    assert Replacement(parse_template("$1x ${b} $3 $c"), regex).missing == ["1x", "3", "c"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a(b", "missing .* at character 1"),
        ("xx[b", r"missing \]: \[b at character 3"),
        (r"(a)\1", r"invalid escape sequence: \\1 at character 4"),
        ("(?=x)", "invalid perl operator"),
        ("((x{900}){900}){900}", "pattern too large|bad repetition|invalid repetition"),
    ],
)
def test_bad_expressions_are_told(pattern, message):
    with pytest.raises(ValueError, match=message):
        Regex(pattern)


def test_no_expression_takes_more_than_linear_time():
    assert not Regex(r"^(a+)+$").search(b"a" * 100_000 + b"!")
