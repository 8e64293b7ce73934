"""Files into Configs: formats, interpolation, places of problems, and input that means no good."""

import json

import msgspec
import pytest
from config_samples import SECRET, file, read, route, said
from hypothesis import given
from hypothesis import strategies as st

from kairos.config.load import MAX_BYTES, judged, load, load_checked, loads
from kairos.config.model import Config
from kairos.config.problems import LIMIT, ConfigError

JSON = json.dumps(file(route(), jwt={"secret": SECRET}))
YAML = f"""
jwt:
  secret: {SECRET}
routers:
- external_path: /a
  internal_path: /b
  methods: [GET]
  backends:
  - {{host: "https://up.example", port: 443}}
"""
TOML = f"""
[jwt]
secret = "{SECRET}"
[[routers]]
external_path = "/a"
internal_path = "/b"
methods = ["GET"]
[[routers.backends]]
host = "https://up.example"
port = 443
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="config.json"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write_file


def failure(data, format_="json"):
    with pytest.raises(ConfigError) as caught:
        judged(loads(data if isinstance(data, bytes) else data.encode(), format_, f"c.{format_}"))
    return caught.value


def told(data, format_="json"):
    """`line path: message` of each error."""
    return [f"{problem.line} {problem.path}: {problem.message}" for problem in failure(data, format_).problems]


# ---- formats


def test_the_three_formats_say_the_same(write):
    texts = {"c.json": JSON, "c.yaml": YAML, "c.yml": YAML, "c.toml": TOML, "no-extension": JSON}
    made = [load_checked(write(text, name)) for name, text in texts.items()]
    assert len({loaded.fingerprint for loaded in made}) == 1
    assert all(loaded.config == made[0].config for loaded in made)


def test_a_changed_setting_changes_the_fingerprint():
    assert read(file()).fingerprint != read(file(version=2)).fingerprint


def test_json_may_have_comments_and_trailing_commas(write):
    text = """// a gateway
    {"routers": [ /* one, two */ {"external_path": "/a//b", "internal_path": "/*x*/", // kept
     "methods": ["GET",], "backends": [{"host": "https://h"},],},
    ],}"""
    config = load(write(text)).config
    assert (config.routers[0].external_path, config.routers[0].internal_path) == ("/a//b", "/*x*/")


@pytest.mark.parametrize(
    "text", ['{"routers": [,]}', "{,}", '{"a":,}', '{"routers": []} /* open', '{"a" "b"}', "[1,,]"]
)
def test_comments_and_commas_do_not_make_other_texts_json(text):
    assert "Invalid JSON" in str(failure(text))


def test_a_byte_order_mark_passes(write):
    assert load(write(b"\xef\xbb\xbf" + JSON.encode())).config.routers


def test_comment_keys_pass_everywhere():
    document = {"$schema": "s", "_comment": 1, "//": "x", **file(route(_why={"deep": [1]}))}
    assert read(document).config.routers


def test_unicode_paths_and_hosts_are_kept():
    made = read(file(route(external_path="/päth", backends=[{"host": "http://höst"}]))).config.routers[0]
    assert (made.external_path, made.backends[0].host) == ("/päth", "http://höst")


def test_the_loader_takes_an_empty_list_of_routes():
    assert read({"routers": []}).config.routers == []


def test_yaml_merge_keys_and_aliases():
    text = """
_base: &base {internal_path: /b, methods: [GET], backends: &up [{host: "https://h"}]}
routers:
- {<<: *base, external_path: /a}
- {external_path: /c, <<: [{methods: [POST]}, *base], internal_path: /d}
"""
    one, two = loads(text.encode(), "yaml", "c.yaml").config.routers
    assert (one.internal_path, one.methods) == ("/b", ["GET"])
    assert (two.internal_path, two.methods, two.backends) == ("/d", ["POST"], one.backends)


# ---- what cannot be read


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="Cannot resolve config path"):
        load(tmp_path / "none.json")


def test_a_folder_and_a_name_that_is_none(tmp_path):
    for path in (tmp_path, "a\0b"):
        with pytest.raises(ConfigError, match="Cannot resolve config path"):
            load(path)


def test_a_file_too_large(write):
    with pytest.raises(ConfigError, match="Config file too large"):
        load(write(b" " * (MAX_BYTES + 1)))


@pytest.mark.parametrize("text", ['{"version": 1', '{"version": "one", "routers": []}', "[]", '"x"', '{"routers": {}}'])
def test_broken_json_and_wrong_structure_say_invalid_json(text):
    assert "Invalid JSON" in str(failure(text))


HOSTILE = [
    ("json", b"", "the file is empty"),
    ("yaml", b" \n\t\n", "the file is empty"),
    ("json", b'{"a": "\xff"}', "not UTF-8: byte 0xff at offset 7"),
    ("json", b"[" * 1_000_000, "nested too deeply"),
    ("json", b'{"a":' * 100_000, "nested too deeply"),
    ("json", b'{"routers": [], "rate_limit": ' + b'{"limits": [' * 400 + b"]}" * 400 + b"}", "nested too deeply"),
    ("json", b'{"routers": [], "version": NaN}', "NaN is not a number that JSON has"),
    ("json", b'{"routers": [], "version": -Infinity}', "-Infinity is not a number"),
    ("json", b'{"routers": [], "version": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ("json", b'{"routers": [], "version": ' + b"9" * 400 + b"}", "must be between 0 and 255"),
    ("json", b'{"routers": [], "limits": {"connections": 1' + b"0" * 40 + b"}}", "must be at least 0"),
    ("json", b'{"routers": [], "timeouts": {"head": 1e999}}', "at most 86400"),
    ("json", b'{"routers": [], "version": true}', "expected an integer, got a boolean"),
    ("json", b'{"routers": [], "server": {"host": "\\ud800"}}', "lone surrogate"),
    ("json", b'{"routers": [], "server": []}', "expected an object, got a list"),
    ("json", b'{"routers": [7, null, []]}', "expected an object, got null"),
    ("json", b'{"routers": null}', "expected a list, got null"),
    ("json", b"{}", "the key 'routers' is missing"),
    ("json", b'{"routers": [{}]}', "the key 'external_path' is missing"),
    ("yaml", b"a: &a [1]\nb: &b [" + b"*a," * 5000 + b"]\nc: [" + b"*b," * 5000 + b"]", "aliases stand for more than"),
    ("yaml", b"a: &a [*a]", "stands inside what it stands for"),
    ("yaml", b"a: *b", "has no anchor"),
    ("yaml", b"a: !!python/object/apply:os.system [x]", "is not supported"),
    ("yaml", b"a: !!binary aGk=", "is not supported"),
    ("yaml", b"[" * 100_000, "nested too deeply"),
    ("yaml", b"a: [1\nb: 2", "c.yaml:2: error: did not find"),
    ("yaml", b"? [a]\n: 1", "a key must be text"),
    ("yaml", b"<<: 1", "takes a mapping"),
    ("yaml", b"routers: []\n---\nrouters: []", "more than one document"),
    ("yaml", b"- 1", "must hold an object"),
    ("yaml", b"routers: []\ntimeouts: {head: .nan}", "greater than 0"),
    ("yaml", b"a: \x00", "c.yaml"),
    ("yaml", b"routers: []\nserver: {host: 2001-01-01, port: 1:99}", "server"),
    ("toml", b"routers = [", "c.toml"),
    ("toml", b"a = 1\na = 2", "overwrite"),
    ("toml", b"a = " + b"[" * 100_000, "nested too deeply"),
    ("toml", b"routers = []\nserver.host = 2001-01-01", "expected a string, got date"),
    ("toml", b"routers = []\ntimeouts.head = nan", "greater than 0"),
]


@pytest.mark.parametrize(("format_", "data", "message"), HOSTILE, ids=[f"{f}-{d[:24]!r}" for f, d, _ in HOSTILE])
def test_hostile_input_is_told_clearly(format_, data, message):
    assert message in str(failure(data, format_))


def test_an_alias_bomb_of_merges():
    rows = ["a0: &a0 {k: 1, l: 2}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    assert "aliases stand for more than" in str(failure("\n".join(rows), "yaml"))


def test_no_file_asks_for_more_than_a_thousand_lines():
    problems = failure(json.dumps({"routers": [], **{f"key{n}": n for n in range(5000)}})).problems
    assert len(problems) == LIMIT
    assert problems[0].message.startswith("more than")


# ---- every problem, where it is


def test_every_problem_is_told_with_its_line():
    text = """{
  "version": 300,
  "metrcs": {},
  "routers": [
    {
      "external_path": 5,
      "internal_path": "/b",
      "methods": ["GET",
                  "get"],
      "backends": [
        {"host": "https://h", "port": 70000},
        {"hots": "https://h",
         "weight": 0}
      ]
    },
    {"external_path": "/c"}
  ]
}"""
    assert told(text) == [
        "2 version: must be between 0 and 255",
        "3 metrcs: unknown key 'metrcs', did you mean 'metrics'?",
        "6 routers[0].external_path: expected a string, got an integer",
        "9 routers[0].methods[1]: Invalid HTTP method: 'get', did you mean 'GET'?"
        " (one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH)",
        "11 routers[0].backends[0].port: must be between 1 and 65535",
        "12 routers[0].backends[1].hots: unknown key 'hots', did you mean 'host'?",
        "12 routers[0].backends[1]: the key 'host' is missing",
        "13 routers[0].backends[1].weight: must be between 1 and 1000000",
        "16 routers[1]: the key 'methods' is missing",
    ]


def test_lines_of_yaml():
    assert told("version: 1\nrouters:\n- external_path: /a\n  methods: [GET,\n    PUTT]\n", "yaml") == [
        "5 routers[0].methods[1]: Invalid HTTP method: 'PUTT', did you mean 'PUT'?"
        " (one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH)"
    ]


def test_lines_of_toml():
    text = '[server]\nprot = 1\n[[routers]]\nexternal_path = "/a"\n'
    text += "[[routers]]\nmethods = 3\n[[routers.backends]]\nport = 0\n"
    assert [line.split(":")[0] for line in told(text, "toml")] == [
        "2 server.prot",
        "3 routers[0]",
        "5 routers[1]",
        "5 routers[1]",
        "6 routers[1].methods",
        "7 routers[1].backends[0]",
        "8 routers[1].backends[0].port",
    ]


def test_a_line_of_a_syntax_error():
    assert told('{"routers": [\n  {"a": 1}\n  {"b": 2}\n]}')[0].startswith("3 :")
    assert told("a: 1\nb: [1\nc: 2", "yaml")[0].startswith("3 :")
    assert told("a = 1\nb = = 2", "toml")[0].startswith("2 :")


def test_checks_have_lines_too():
    text = json.dumps(file(route(external_path="/x/../y"), route(methods=[])), indent=1)
    at = 1 + [line.strip() for line in text.split("\n")].index('"external_path": "/x/../y",')
    assert told(text)[0].startswith(f"{at} routers[0].external_path: Path traversal detected in route: /x/../y -> /b")


DOUBLED = [
    ("json", '{"routers": [], "version": 1,\n "version": 1}', "2 version: this key stands twice, first on line 1"),
    ("json", '{"routers": [{"a":1,"a":2}]}', "1 routers[0].a: this key stands twice, first on line 1"),
    ("json", '{"routers": [], "\\u0061":1,\n"a":2}', "2 a: this key stands twice, first on line 1"),
    ("yaml", "routers: []\nserver:\n  port: 1\n  port: 2", "4 server.port: this key stands twice, first on line 3"),
    ("yaml", "routers: []\n'routers': []", "2 routers: this key stands twice, first on line 1"),
]


@pytest.mark.parametrize(("format_", "text", "message"), DOUBLED)
def test_keys_given_twice(format_, text, message):
    assert message in told(text, format_)


def test_a_problem_reads_as_one_line():
    error = failure('{"routers": [],\n "metric": 1}')
    assert str(error) == (
        "Invalid JSON: c.json cannot be used\nc.json:2: error: metric: unknown key 'metric', did you mean 'metrics'?"
    )


# ---- interpolation


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("${KAIROS_T}", "v"),
        ("a-${KAIROS_T}-${KAIROS_T}", "a-v-v"),
        ("${KAIROS_NONE:-d}", "d"),
        ("${KAIROS_T:-d}", "v"),
        ("${KAIROS_EMPTY:-d}", "d"),
        ("${KAIROS_EMPTY}", ""),
        ("${KAIROS_NONE:-}", ""),
        ("$${KAIROS_T}", "${KAIROS_T}"),
        ("/${1}/${KAIROS_T}", "/${1}/v"),
        ("$5 $$ $", "$5 $$ $"),
        ("${KAIROS_NESTED}", "${KAIROS_T}"),
    ],
)
def test_variables(monkeypatch, written, meant):
    monkeypatch.setenv("KAIROS_T", "v")
    monkeypatch.setenv("KAIROS_EMPTY", "")
    monkeypatch.setenv("KAIROS_NESTED", "${KAIROS_T}")
    monkeypatch.delenv("KAIROS_NONE", raising=False)
    assert read(file(jwt={"secret": written})).config.jwt.secret == meant


def test_variables_stand_for_numbers_and_booleans(monkeypatch):
    monkeypatch.setenv("KAIROS_T", "81")
    document = file(
        server={"port": "${KAIROS_T}", "drain_delay": "${KAIROS_NONE:-1.5}"},
        metrics={"enabled": "${KAIROS_NONE:-false}"},
        rate_limit={"requests_per_minute": "${KAIROS_T}", "burst_size": "${KAIROS_NONE:-90}"},
    )
    config = read(document).config
    assert (config.server.port, config.server.drain_delay, config.metrics.enabled) == (81, 1.5, False)
    assert config.rate_limit.burst_allowance == 9


def test_a_plain_string_is_no_number():
    assert said(file(server={"port": "81"})) == ["server.port: expected an integer, got a string"]


def test_files(tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    document = json.dumps(file(jwt={"secret": "${file:secret}", "issuer": f"${{file:{tmp_path}/secret}}"}))
    (tmp_path / "config.json").write_text(document)
    jwt = load(tmp_path / "config.json").config.jwt
    assert (jwt.secret, jwt.issuer) == (SECRET, SECRET)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${KAIROS_NONE}", "the environment variable KAIROS_NONE is not set"),
        ("${KAIROS_NONE", "without a closing"),
        ("${a-b}", "is neither"),
        ("${}", "is neither"),
        ("${file:/none/such}", "cannot read /none/such: No such file"),
        ("${file:/dev/zero}", "not a regular file"),
        ("${file:/}", "not a regular file"),
        ("${file:a\0b}", "not a text file"),
    ],
)
def test_references_to_nothing(monkeypatch, written, message):
    monkeypatch.delenv("KAIROS_NONE", raising=False)
    (problem,) = said(file(jwt={"secret": written}))
    assert problem.startswith("jwt.secret: ")
    assert message in problem


def test_a_wrong_interpolated_number_is_told_without_its_value(monkeypatch):
    monkeypatch.setenv("KAIROS_T", "hunter2")
    assert said(file(server={"port": "${KAIROS_T}"})) == [
        "server.port: what it stands for is not an integer between 0 and 65535"
    ]


def test_every_missing_variable_is_told_once():
    found = said(file(jwt={"secret": "${KAIROS_N1}"}, server={"port": "${KAIROS_N2}"}))
    assert [line.split(":")[0] for line in found] == ["jwt.secret", "server.port"]


# ---- properties

KEYS = ["routers", "version", "jwt", "rate_limit", "strategy", "server", "host", "port", "backends", "methods",
        "retry", "external_path", "internal_path", "ai_policy", "limits", "metrics", "_x", "hosts", "x"]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(
    ["GET", "http://h", "/a/{b}", "${X", "Composite", "PerIP", "", "\0", "content_analysis", "*"]
) | st.text(max_size=8)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


def outcome(load, *arguments):
    """A Config, or the problems: any other exception fails the test."""
    try:
        return load(*arguments).config
    except ConfigError as error:
        return error.problems


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_whatever_a_file_holds_the_answer_is_a_config_or_problems(document):
    made = outcome(lambda: judged(read(document)))
    assert isinstance(made, Config) or all(str(problem).startswith("c.json") for problem in made)


@given(
    st.sampled_from(["json", "yaml", "toml"]),
    st.binary(max_size=60) | st.text("{}[]\",:#&*!-/\\ \na1.=<'", max_size=40).map(str.encode),
)
def test_whatever_the_bytes_are_the_answer_is_a_config_or_problems(format_, data):
    made = outcome(loads, data, format_, "c")
    assert isinstance(made, Config) or made


NAMES = st.text("abcxyz", min_size=1, max_size=5)
ROUTES = st.builds(
    route,
    external_path=NAMES.map("/{}".format) | NAMES.map("/{{{}}}/x".format),
    methods=st.lists(st.sampled_from(["GET", "POST", "PATCH"]), min_size=1, unique=True),
    host=st.sampled_from([..., "http://h"]),
    backends=st.sampled_from([..., [{"host": "https://a", "weight": 3}, {"host": "ws://b", "port": 9}]]),
    retry=st.sampled_from([None, {}, {"max_attempts": 1, "circuit_breaker_threshold": 2}]),
    rate_limit=st.sampled_from([None, {"requests_per_second": 3}, {"strategy": {"Composite": [{}]}}]),
    ai_policy=st.sampled_from([None, {"enabled": True, "strategy": {"content_analysis": {"model": "m"}}}]),
    response_transformation=st.sampled_from([None, {"status_code_mappings": [{"from": 404, "to": 200}]}]),
)


@given(st.lists(ROUTES, max_size=4), st.booleans())
def test_a_config_written_back_loads_as_the_same(routes, with_jwt):
    sections = {"jwt": {"secret": SECRET}, "timeouts": {"total": None}} if with_jwt else {}
    config = read({"routers": routes, **sections}).config
    assert loads(msgspec.json.encode(config), "json", "c.json").config == config


def test_a_duplicate_is_found_among_thousands():
    routes = [route(external_path=f"/r/{n}") for n in range(5000)]
    assert said(file(*routes, route(external_path="/r/0"))) == [
        "routers[5000].external_path: Duplicate route path detected: /r/0 (GET) is that of routers[0]"
    ]
