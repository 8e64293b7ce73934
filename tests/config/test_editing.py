"""Edits of configuration files: what is meant is what is read back, and the rest of the text stays as it was."""

import json

import pytest
from config_samples import SECRET, route
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kairos.config import editing
from kairos.config.editing import EditError, RouteKey, canonical, document, edited
from kairos.config.identity import same
from kairos.config.load import loads
from kairos.config.rewriting import _WAYS, rewrite
from kairos.config.syntax import FormatError, parse
from kairos.config.writing import UnwritableError, dumps, without_nulls

FORMATS = ("json", "yaml", "toml")

YAML = """\
# my gateway
version: 1   # the one

# who may come
jwt_secret: "${JWT_SECRET}"

server:
  # where
  port: 80 # main
  host: 0.0.0.0

routers:
  # cats
  - external_path: /cats   # meow
    internal_path: /c
    methods: [GET, POST] # both
    backends:
      - {host: "http://a", port: 1}
      # second
      - host: http://b
        port: 2

  # dogs
  - external_path: /dogs
    internal_path: /d
    methods: [GET]
    backends:
    - host: http://a
metrics: {enabled: true}
# end
"""

JSON = """\
{
    // my gateway
    "version": 1, // the one
    "_comment": "kept",
    "jwt_secret": "${JWT_SECRET}",
    "server": {"port": 80, "host": "0.0.0.0"},
    "metrics": {"enabled": true},
    "routers": [
        // cats
        {
            "external_path": "/cats", // meow
            "internal_path": "/c",
            "methods": ["GET", "POST"],
            "_comment": "of cats",
            "backends": [
                {"host": "http://a", "port": 1}, // one
                {"host": "http://b", "port": 2} // two
            ]
        },
        /* dogs */
        {"external_path": "/dogs", "internal_path": "/d", "methods": ["GET"], "host": "http://a", "port": 9} // last
    ], // all
}
"""

TOML = """\
# my gateway
version = 1 # the one
jwt_secret = "${JWT_SECRET}"

# where
[server]
port = 80 # main
host = "0.0.0.0"

[metrics]
enabled = true

# cats
[[routers]]
external_path = "/cats" # meow
internal_path = "/c"
methods = [
    "GET", # first
    "POST",
]
[[routers.backends]]
host = "http://a"
port = 1
[[routers.backends]] # two
host = "http://b"
port = 2

# dogs
[[routers]]
external_path = "/dogs"
internal_path = "/d"
methods = ["GET"]
backends = [{host = "http://a"}]
"""
TEXTS = {"json": JSON, "yaml": YAML, "toml": TOML}


def changed(format_, change):
    """The lines that an edit takes out and puts in."""
    old, new = TEXTS[format_], edited(TEXTS[format_], format_, change)
    assert canonical(document(new, format_)) == canonical(change(document(old, format_)))
    before, after = old.splitlines(), new.splitlines()
    return [line for line in before if line not in after], [line for line in after if line not in before]


# ---- what changes in a text


@pytest.mark.parametrize("format_", FORMATS)
def test_a_value_is_changed_where_it_stands(format_):
    gone, come = changed(format_, lambda value: editing.with_members(value, "server", {"port": 8080}))
    assert (len(gone), len(come)) == (1, 1)
    assert gone[0].replace("80", "8080", 1) == come[0]


@pytest.mark.parametrize("format_", FORMATS)
def test_an_older_spelling_goes_when_its_section_is_set(format_):
    gone, come = changed(format_, lambda value: editing.with_section(value, "jwt", {"secret": "${OTHER}"}))
    assert any("jwt_secret" in line for line in gone)
    assert not any("jwt_secret" in line for line in come)
    assert any("${OTHER}" in line for line in come)
    assert len(gone) - ("# who may come" in gone) - ('    "routers": [' in gone) <= 2


@pytest.mark.parametrize("format_", FORMATS)
def test_a_route_is_put_in_and_nothing_else_changes(format_):
    gone, come = changed(format_, lambda value: editing.with_route(value, route(external_path="/birds"), 1))
    assert gone == []
    assert any("/birds" in line for line in come)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_route_is_taken_out_with_its_comment(format_):
    gone, come = changed(format_, lambda value: editing.without_route(value, RouteKey("/cats")))
    assert come == []
    assert any("meow" in line for line in gone)
    assert not any("/dogs" in line for line in gone)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_route_that_is_replaced_keeps_the_text_of_what_it_still_says(format_):
    def change(value):
        cats = {**editing.canonical_routes(value)[0], "methods": ["GET", "POST", "PUT"], "auth_required": True}
        return editing.with_route_replaced(value, RouteKey("/cats"), cats)

    gone, come = changed(format_, change)
    assert len(gone) <= 2
    assert not any("meow" in line for line in gone)
    assert any("PUT" in line for line in come)


def test_the_yaml_stays_as_it_was_around_a_change():
    change = editing.with_members(document(YAML, "yaml"), "server", {"workers": 2})
    assert rewrite(YAML, "yaml", change) == YAML.replace("  host: 0.0.0.0\n", "  host: 0.0.0.0\n  workers: 2\n")


def test_line_ends_of_other_systems_stay():
    text = YAML.replace("\n", "\r\n")
    made = edited(text, "yaml", lambda value: editing.with_route(value, route(external_path="/birds")))
    assert "\n" not in made.replace("\r\n", "")


def test_a_json_file_keeps_its_order_and_indentation():
    text = json.dumps({"routers": [route()], "_comment": "mine", "version": 3}, indent="\t")
    made = edited(
        text, "json", lambda value: editing.with_section(value, "cors", {"allowed_origins": ["https://a.example"]})
    )
    assert made.startswith(text.removesuffix("\n}"))
    assert '\n\t"cors"' in made


def test_aliases_are_written_out_where_what_they_stand_for_changes():
    text = (
        "routers:\n- &first {external_path: /a, methods: [GET], backends: [{host: 'http://h'}]} # one\n"
        "- {<<: *first, external_path: /b}\n# the end\n"
    )
    made = edited(
        text, "yaml", lambda value: editing.with_route_replaced(value, RouteKey("/a"), route(methods=["PUT"]))
    )
    assert [found["methods"] for found in document(made, "yaml")["routers"]] == [["PUT"], ["GET"]]
    assert made.endswith("# the end\n")
    again = edited(text, "yaml", lambda value: editing.with_members(value, "server", {"port": 1}))
    assert again.startswith(text.removesuffix("# the end\n"))


def test_toml_has_no_null_but_can_do_without():
    made = edited(
        TOML, "toml", lambda value: editing.with_section(value, "ai", {"provider": "x", "model": "y", "api_key": None})
    )
    assert document(made, "toml")["ai"] == {"provider": "x", "model": "y"}
    with pytest.raises(EditError, match="TOML has no null") as caught:
        edited(TOML, "toml", lambda value: editing.with_section(value, "timeouts", {"total": None}))
    assert caught.value.kind == "unwritable"


# ---- what is meant


def test_server_keeps_what_an_older_spelling_in_it_says_of_timeouts():
    old = {"server": {"port": 1, "keep_alive": 9}, "timeouts": {"head": 3}, "routers": []}
    made = editing.with_section(old, "server", {"port": 2})
    assert made == {"server": {"port": 2}, "timeouts": {"head": 3, "idle": 9}, "routers": []}
    assert editing.with_section(old, "timeouts", {"idle": 5})["server"] == {"port": 1}
    assert editing.with_section(old, "server", {"port": 2, "keep_alive": 7})["timeouts"] == {"head": 3, "idle": 7}
    assert editing.with_members(old, "server", {"port": 2, "keep_alive": 7})["timeouts"] == {"head": 3, "idle": 7}
    assert canonical(editing.without_section(old, "timeouts")) == {"server": {"port": 1}, "routers": []}


def test_a_section_may_come_in_any_spelling():
    made = editing.with_section({}, "rate_limit", {"strategy": "sliding_window", "requests_per_minute": 5})
    assert made["rate_limit"]["requests_per_window"] == 5
    assert made["rate_limit"]["window_duration"] == 60


def test_a_section_is_taken_out_by_any_name_it_has():
    assert editing.without_section({"jwt_secret": SECRET, "routers": []}, "jwt") == {"routers": []}
    assert editing.with_section({"jwt": {}}, "jwt", None) == {}
    with pytest.raises(EditError, match="there is no section 'cors'"):
        editing.without_section({}, "cors")
    with pytest.raises(EditError, match="did you mean 'metrics'"):
        editing.with_section({}, "metric", {})


def test_what_says_the_same_stays_as_it_is_written():
    old = {
        "metrics": {"prometheus_endpoint": "/m", "enabled": True},
        "routers": [route(retry_config={"max_attempts": 3})],
    }
    shown = {"metrics": {"path": "/m"}, "routers": [route(retry={})]}
    assert editing.with_everything(old, shown) == old
    shown["metrics"]["path"] = "/n"
    made = editing.with_everything(old, shown)
    assert (made["metrics"], made["routers"]) == ({"path": "/n"}, old["routers"])


def test_comment_keys_survive_what_is_written_back_without_them():
    old = {
        "_comment": "a",
        "cors": {"_why": "b", "max_age": 1},
        "routers": [route(_note="c"), route(external_path="/z")],
    }
    new = {
        "cors": {"max_age": 2},
        "routers": [route(external_path="/z", auth_required=True), route(auth_required=True)],
    }
    made = editing.with_everything(old, new)
    assert (made["_comment"], made["cors"]) == ("a", {"_why": "b", "max_age": 2})
    assert [found.get("_note") for found in made["routers"]] == [None, "c"]


def test_a_route_with_its_host_is_written_back_so():
    old = {
        "routers": [{"host": "http://h", "port": 1, "external_path": "/a", "internal_path": "/b", "methods": ["GET"]}]
    }
    shown = {**editing.canonical_routes(old)[0], "auth_required": True}
    made = editing.with_route_replaced(old, RouteKey("/a"), shown)["routers"][0]
    assert made == {**old["routers"][0], "auth_required": True}
    two = {**shown, "backends": [*shown["backends"], {"host": "http://i"}]}
    made = editing.with_route_replaced(old, RouteKey("/a"), two)["routers"][0]
    assert len(made["backends"]) == 2
    assert "legacy" not in made


# ---- which route is meant

THREE = {"routers": [route(), route(methods=["PUT", "POST"]), route(hosts=["a.example"])]}


def test_routes_of_one_path_are_told_apart():
    assert editing.find_route(THREE["routers"], RouteKey("/a", methods=["POST", "PUT"])) == 1
    assert editing.find_route(THREE["routers"], RouteKey("/a", methods=["PUT"])) == 1
    assert editing.find_route(THREE["routers"], RouteKey("/a", hosts=["a.example"])) == 2
    assert editing.find_route(THREE["routers"], RouteKey("/a", methods=["GET"], hosts=[])) == 0
    assert editing.find_route(THREE["routers"], RouteKey("/a", index=2)) == 2


@pytest.mark.parametrize(
    ("key", "kind", "message"),
    [
        (RouteKey("/b"), "not_found", "Route not found: /b"),
        (RouteKey("/a"), "ambiguous", "3 routes have the path /a"),
        (RouteKey("/a", methods=["DELETE"]), "not_found", "Route not found: /a DELETE"),
        (RouteKey("/a", index=7), "not_found", "Route not found"),
    ],
    ids=["path", "several", "method", "index"],
)
def test_a_route_that_cannot_be_told(key, kind, message):
    with pytest.raises(EditError, match=message) as caught:
        editing.without_route(THREE, key)
    assert caught.value.kind == kind


def test_two_routes_for_the_same_requests_are_one_too_many():
    with pytest.raises(EditError, match="Route already exists: /a") as caught:
        editing.with_route(THREE, route(methods=["GET", "PATCH"]))
    assert caught.value.kind == "exists"
    with pytest.raises(EditError, match="already exists"):
        editing.with_route_replaced(THREE, RouteKey("/a", methods=["PUT"]), route())
    assert len(editing.with_route(THREE, route(methods=["PATCH"]))["routers"]) == 4


@pytest.mark.parametrize(
    ("text", "format_", "message"),
    [
        ('{"a": 1, "a": 2}', "json", "stands twice"),
        ("a: 1\na: 2\n", "yaml", "stands twice"),
        ("a = 1\na = 2\n", "toml", "overwrite"),
        ("[1]", "json", "must hold an object"),
        ("{", "json", "Expecting"),
    ],
    ids=["json", "yaml", "toml", "list", "broken"],
)
def test_a_text_that_is_no_document(text, format_, message):
    with pytest.raises(EditError, match=message) as caught:
        edited(text, format_, lambda value: value)
    assert caught.value.kind == "unreadable"


# ---- whatever the document

NAMES = st.sampled_from(["version", "server", "host", "a b", "é", "x.y", 'q"q', "80", "on", "routers", "methods"])
TRICKY = [
    "",
    "on",
    "a: b",
    "# no",
    "${X}",
    "<<",
    "=",
    "*a",
    "- a",
    "1e3",
    "2020-01-01",
    "multi\nline\n",
    "\x7f\u2028",
    "é😀",
    '"\\',
]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(TRICKY), st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(NAMES, inner, max_size=4),
        st.lists(st.fixed_dictionaries({"external_path": st.sampled_from(["/a", "/b", "/c"]), "n": inner}), max_size=4),
    ),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=5)


@st.composite
def neighbours(draw):
    """A document and one that has much in common with it."""
    one, other = draw(DOCUMENTS), draw(DOCUMENTS)
    chosen = draw(st.sets(st.sampled_from(sorted(one)))) if one else set()
    return one, {**{key: item for key, item in one.items() if key not in chosen}, **other}


def commented(text, format_):
    """With a comment above each line that may have one, if it still says the same."""
    sign = "// " if format_ == "json" else "# "
    more = "".join(f"{sign}line {at}\n{line}\n" for at, line in enumerate(text.splitlines()))
    try:
        return more if same(parse(more, format_)[0], parse(text, format_)[0]) else text
    except FormatError:
        return text


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=25, deadline=None)
@given(neighbours())
def test_what_is_written_is_what_is_read(format_, pair):
    old, new = pair
    try:
        text, wanted = dumps(old, format_), without_nulls(new) if format_ == "toml" else new
    except UnwritableError:
        assume(False)
    assert same(parse(text, format_)[0], without_nulls(old) if format_ == "toml" else old)
    for before in (text, commented(text, format_)):
        assert same(parse(rewrite(before, format_, new), format_)[0], wanted)


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=25, deadline=None)
@given(DOCUMENTS)
def test_sections_that_are_not_touched_keep_every_character(format_, value):
    value = {**value, "version": 1}
    try:
        text = commented(dumps(value, format_), format_)
    except UnwritableError:
        assume(False)
    made = rewrite(text, format_, {**value, "version": 2})
    different = [(one, other) for one, other in zip(text.splitlines(), made.splitlines(), strict=True) if one != other]
    assert len(different) == 1
    assert different[0][0].replace("1", "2", 1) == different[0][1]


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_edits_of_a_text_are_edits_of_what_it_holds(format_, data):
    """load(edit(text)) is edit(load(text)), whatever is done in whatever order."""
    text = TEXTS[format_]
    for _ in range(data.draw(st.integers(1, 4))):
        change = data.draw(CHANGES)
        try:
            text, value = edited(text, format_, change), canonical(change(canonical(document(text, format_))))
        except EditError:  # no such route, or two of one kind
            continue
        held = canonical(document(text, format_))
        assert shorn(held) == shorn(value)


def shorn(value):
    """Without the mark of how a route is written."""
    return {
        **value,
        "routers": [
            {key: item for key, item in found.items() if key != "legacy"} for found in value.get("routers", [])
        ],
    }


PATHS = st.sampled_from(["/cats", "/dogs", "/birds", "/b/{id}"])
METHODS = st.lists(st.sampled_from(["GET", "PUT", "POST"]), min_size=1, unique=True)
ROUTES = st.builds(lambda path, methods: route(external_path=path, methods=methods), PATHS, METHODS)
SECTIONS = st.sampled_from(
    [
        ("jwt", {"secret": SECRET}),
        ("server", {"port": 1, "keep_alive": 4}),
        ("timeouts", {"idle": 3}),
        ("cors", {"max_age_secs": 5, "allowed_origins": ["https://a.example"]}),
        ("metrics", {"endpoint": "/m"}),
        ("rate_limit", {"requests_per_second": 5}),
        ("jwt", None),
        ("server", None),
    ]
)
CHANGES = st.one_of(
    st.builds(lambda pair: lambda value: editing.with_section(value, *pair), SECTIONS),
    st.builds(lambda new, at: lambda value: editing.with_route(value, new, at), ROUTES, st.integers(0, 3)),
    st.builds(lambda path, new: lambda value: editing.with_route_replaced(value, RouteKey(path), new), PATHS, ROUTES),
    st.builds(lambda path: lambda value: editing.without_route(value, RouteKey(path)), PATHS),
)


def test_an_edited_file_loads(monkeypatch):
    monkeypatch.setenv("JWT_SECRET", SECRET)
    for format_, text in TEXTS.items():
        made = edited(text, format_, lambda value: editing.with_route(value, route(external_path="/birds")))
        config = loads(made.encode(), format_, "c").config
        assert [found.external_path for found in config.routers] == ["/cats", "/dogs", "/birds"]
        assert config.jwt is not None


RENAMED = {
    "yaml": "a: # one\n  retry_config: # two\n    # three\n    max_attempts: 2 # four\n",
    "json": '{"a": { // one\n "retry_config": { // two\n // three\n "max_attempts": 2 // four\n}}}',
    "toml": "# one\n[a.retry_config] # two\n# three\nmax_attempts = 2 # four\n",
}


@pytest.mark.parametrize("format_", FORMATS)
def test_what_only_gets_another_name_keeps_its_comments(format_):
    made = rewrite(RENAMED[format_], format_, {"a": {"retry": {"max_retries": 2}}})
    assert made == RENAMED[format_].replace("retry_config", "retry").replace("max_attempts", "max_retries")


ODD = [
    (
        "yaml",
        "{a: 1, # one\n b: {c: d}, # two\n e: [1,\n  2]}\n",
        "{a: 2, # one\n b: {c: d}, # two\n e: [1,\n  2, 3]}\n",
    ),
    ("yaml", "a: |+\n  text\n\n\nb: 1\n", "a: |+\n  text\n\n\nb: 2\n"),
    ("yaml", "a: &x [1, 2]\nb: *x # two\n", "a: &x [1, 2]\nb: [1, 2, 3] # two\n"),
    ("yaml", "---\na:\n- - 1\n  - 2 # two\n...\n", "---\na:\n- - 1\n  - 2 # two\n  - 3\n...\n"),
    ("yaml", "l:\n  - a: 1 # one\n    b: 2 # two\n", "l:\n  - b: 2 # two\n"),
    ("json", '{"a": [1, // one\n2 // two\n]}', '{"a": [1, // one\n2, 3 // two\n]}'),
    ("json", '{"a": [\n1, // one\n2 // two\n]}', '{"a": [\n1, // one\n2, // two\n3\n]}'),
    ("json", '{"a": 1, "b": 2 /* b */,\n"c": 3}', '{"a": 1, "c": 3}'),
    ("toml", "a = [ {x = 1}, # one\n  {x = 2}, # two\n]\n", "a = [   {x = 2}, {x = 3}, # two\n]\n"),
    ("toml", '[a]\nb = """\n[c]\n"""\n# end\n[d]\n', '[a]\nb = """\n[c]\n"""\ne = 1\n# end\n[d]\n'),
    ("toml", "# head\n\n[a]\nb = 1\n", "# head\n\nc = 1\n\n[a]\nb = 1\n"),
]


@pytest.mark.parametrize(("format_", "text", "expected"), ODD, ids=[str(at) for at in range(len(ODD))])
def test_odd_ways_to_write_are_left_alone(format_, text, expected):
    assert rewrite(text, format_, parse(expected, format_)[0]) == expected


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=15, deadline=None)
@given(neighbours())
def test_sections_that_are_alike_stay_where_all_else_is_written_anew(format_, pair):
    """The coarse way, which is taken where the fine one does not lead there."""
    old, new = pair
    try:
        text, wanted = dumps(old, format_), without_nulls(new) if format_ == "toml" else new
    except UnwritableError:
        assume(False)
    held = parse(text, format_)[0]
    assume(held and wanted and held.keys() & wanted.keys())
    made = _WAYS[format_][-1](text, held, wanted)
    assert same(parse(made, format_)[0], wanted)
