"""`kairos config` and its neighbours: what they print and write, and how they end. In this process, on real files."""

import json
import os
import socket
import stat
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kairos.cli.config import config, generate, try_route, validate
from kairos.config.editing import canonical
from kairos.config.load import load_checked
from kairos.config.samples import SAMPLES
from kairos.config.syntax import parse

SAMPLE_FILES = Path(__file__).parents[1] / "config" / "kairos_rs"
SECRET = "0123456789abcdef0123456789abcdef"
GOOD = f"""\
# mine
rate_limit: {{requests_per_window: 100}}
jwt_secret: "{SECRET}"   # shared with the login
routers:
  # people
  - external_path: /users/{{id}}
    internal_path: /people/{{id}}?v=1
    methods: [GET]
    auth_required: true
    host: https://users.example
    port: 8443
  - external_path: /users/me
    internal_path: /me
    methods: [GET]
    retry_config: {{max_attempts: 2}}
    backends: [{{host: "https://users.example"}}]
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A verb in a folder with good.yaml; exit code and everything printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAIROS_CONFIG_PATH", raising=False)
    Path("good.yaml").write_text(GOOD)

    def runs(*words, verb=config):
        done = CliRunner().invoke(verb, words)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return runs


def write(name, text):
    Path(name).write_text(text if isinstance(text, str) else json.dumps(text))
    return name


# ---- validate


def test_a_good_file(run):
    assert run("validate", "good.yaml") == (0, "good.yaml: good: 2 routes, 2 backends; no remarks\n")
    assert run("good.yaml", verb=validate)[0] == 0
    assert run("validate", "-f", "good.yaml")[0] == 0


def test_more_is_told_of_a_good_file(run):
    out = run("validate", "-v", "good.yaml")[1].splitlines()
    assert out[0].split() == ["METHODS", "ROUTE", "BACKENDS", "POLICIES"]
    assert out[1].split() == ["GET", "/users/{id}", "https://users.example:8443", "security_headers,", "rate_limit"]


def test_errors_are_told_with_their_lines(run):
    write("bad.yaml", GOOD.replace("methods", "metods", 1))
    code, out = run("validate", "bad.yaml")
    assert code == 1
    assert "bad.yaml:8: error: routers[0].metods: unknown key 'metods', did you mean 'methods'?" in out
    assert "bad.yaml: cannot be used: 2 errors" in out


def test_warnings_count_where_that_is_wanted(run):
    write("plain.yaml", GOOD.replace("https://users", "http://users"))
    assert run("validate", "plain.yaml")[0] == 0
    code, out = run("validate", "--strict", "plain.yaml")
    assert code == 1
    assert "plain.yaml: not good enough: 2 warnings" in out


def test_the_verdict_for_programs(run):
    write("bad.json", {"routers": [], "sever": {}})
    code, out = run("validate", "-o", "json", "bad.json")
    made = json.loads(out)
    assert (code, made["valid"], made["routes"]) == (1, False, None)
    assert made["problems"][0]["path"] == "sever"
    assert json.loads(run("validate", "-o", "json", "good.yaml")[1]) == {
        "file": "good.yaml", "valid": True, "routes": 2, "problems": [],
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["validate", "show", "format", "merge"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "broken.json:1: error: Expecting property name"),
        ("[]", "must hold an object"),
        (b"\xff", "utf-8"),
    ],
    ids=["missing", "broken", "list", "bytes"],
)
def test_what_cannot_be_read_ends_with_3(run, verb, text, message):
    if text is not None:
        Path("broken.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, out = run(verb, "broken.json")
    assert code == 3
    assert message in out


# ---- show, diff


def test_show_is_canonical_and_masked(run):
    code, out = run("show", "good.yaml")
    shown = json.loads(out)
    assert (code, shown["jwt"]["secret"]) == (0, "***")
    assert yaml.safe_load(run("show", "-o", "yaml", "good.yaml")[1]) == shown
    assert tomllib.loads(run("show", "-o", "toml", "good.yaml")[1])["routers"][1] == shown["routers"][1]


def test_show_of_what_holds_on_a_route(run):
    code, out = run("show", "good.yaml", "--effective", "/users/me")
    assert (code, set(json.loads(out))) == (0, {"rate_limit", "security_headers"})
    assert run("show", "good.yaml", "--effective", "/nobody") == (1, "Route not found: /nobody\n")


def test_diff_sees_through_formats_and_spellings(run):
    run("convert", "good.yaml", "same.toml")
    assert run("diff", "good.yaml", "same.toml", "--exit-code") == (0, "")
    write("other.yaml", GOOD.replace(SECRET, "f" * 40).replace("[GET]", "[PUT]", 1))
    code, out = run("diff", "good.yaml", "other.yaml")
    assert code == 0
    assert "f" * 40 not in out
    assert '+  secret: "*** (changed)"' in out
    assert "+    methods: [PUT]" in out
    code, out = run("diff", "good.yaml", "other.yaml", "-o", "json", "--exit-code")
    assert (code, [found["path"] for found in json.loads(out)]) == (1, ["/routers/0/methods", "/jwt/secret"])


# ---- new files


@pytest.mark.parametrize("format_", ["json", "yaml", "toml"])
@pytest.mark.parametrize("kind", list(SAMPLES))
def test_generated_files_load_without_a_remark(run, kind, format_):
    name = f"new.{format_}"
    code, out = run("-o", name, "-t", kind, verb=generate)
    assert (code, out) == (0, f"{name} is written; look at it with: kairos config validate {name}\n")
    assert load_checked(name).problems == []
    assert stat.S_IMODE(os.stat(name).st_mode) == 0o600
    sign = "//" if format_ == "json" else "#"
    assert sum(line.strip().startswith(sign) for line in Path(name).read_text().splitlines()) >= 5
    assert run("generate", "-o", name) == (1, f"{name} is there already: --force overwrites it\n")
    assert run("generate", "-o", name, "--force")[0] == 0


def test_generated_secrets_are_those_of_one_file(run):
    texts = [run("generate", "-o", "-", "-t", "advanced")[1] for _ in range(2)]
    secrets = {canonical(parse(text, "json")[0])["jwt"]["secret"] for text in texts}
    assert len(secrets) == 2


@pytest.mark.parametrize("source", sorted(path.name for path in SAMPLE_FILES.glob("*.json")))
def test_files_of_kairos_rs_are_converted_and_formatted(run, source):
    text = (SAMPLE_FILES / source).read_text()
    write("in.json", text)
    for name in ("out.yaml", "out.toml", "back.json"):
        assert run("convert", "in.json", name)[0] == 0
        assert run("diff", "in.json", name, "--exit-code") == (0, "")
    assert run("format", "in.json")[0] == 0
    assert run("format", "--check", "in.json")[0] == 0
    made = json.loads(Path("in.json").read_text())
    assert not any("host" in route for route in made["routers"])
    assert [key for key in made if key.startswith("_")] == [key for key in json.loads(text) if key.startswith("_")]


def test_what_toml_cannot_say(run):
    write("null.yaml", "timeouts: {total: null}\nrouters: []\n")
    code, out = run("convert", "null.yaml", "--to", "toml")
    assert (code, out) == (1, "null.yaml: timeouts.total: TOML has no null, which this key needs: use JSON or YAML\n")


# ---- changes


def test_format_writes_older_spellings_anew_and_leaves_the_rest(run):
    os.chmod("good.yaml", 0o640)
    assert run("format", "--check", "good.yaml")[0] == 1
    assert Path("good.yaml").read_text() == GOOD
    assert run("format", "good.yaml") == (0, "good.yaml: written in canonical spelling\n")
    text = Path("good.yaml").read_text()
    assert stat.S_IMODE(os.stat("good.yaml").st_mode) == 0o640
    assert "    retry: {max_retries: 2}\n" in text
    assert "jwt:\n  secret: " in text
    assert "  # people\n  - external_path: " in text
    assert run("format", "good.yaml") == (0, "good.yaml: as it should be\n")
    write("before.yaml", GOOD)
    assert run("diff", "before.yaml", "good.yaml", "--exit-code")[0] == 0


def test_format_leaves_a_file_alone_that_nobody_may_write(run):
    os.chmod("good.yaml", 0o444)
    code, out = run("format", "good.yaml")
    assert code == 1
    assert "good.yaml" in out
    assert Path("good.yaml").read_text() == GOOD


def test_merge_lays_files_over_each_other(run):
    over = {
        "server": {"port": 1},
        "jwt": {"issuer": "me"},
        "routers": [
            {"external_path": "/users/me", "internal_path": "/you", "methods": ["GET"], "backends": [{"host": "https://b.example"}]},
            {"external_path": "/new", "internal_path": "/", "methods": ["GET"], "backends": [{"host": "https://b.example"}]},
        ],
    }  # fmt: skip
    write("over.json", over)
    code, out = run("merge", "good.yaml", "over.json", "-o", "whole.yaml")
    assert (code, out) == (0, "")
    text = Path("whole.yaml").read_text()
    assert text.startswith("# mine\n")
    assert "  # people\n" in text
    value = canonical(yaml.safe_load(text))
    assert value["jwt"] == {"secret": SECRET, "issuer": "me"}
    assert [(route["external_path"], route["internal_path"]) for route in value["routers"]] == [
        ("/users/{id}", "/people/{id}?v=1"), ("/users/me", "/you"), ("/new", "/"),
    ]  # fmt: skip
    assert run("merge", "good.yaml", "over.json", "-o", "whole.toml")[0] == 0
    assert run("diff", "whole.yaml", "whole.toml", "--exit-code") == (0, "")


# ---- test-route


def test_a_request_is_explained(run):
    code, out = run("-c", "good.yaml", "-p", "/users/7?x=y", verb=try_route)
    lines = out.splitlines()
    assert code == 0
    assert lines[:4] == [
        "forwarded: the only route that fits the path",
        "route     routers[0] /users/{id}",
        "captured  id=7",
        "sent as   /people/7?v=1&x=y",
    ]
    assert "auth              its own  asks who it is" in lines
    assert "https://users.example:8443  100%" in lines


def test_an_explanation_for_programs(run):
    made = json.loads(run("-c", "good.yaml", "-p", "/users/me", "-o", "json", verb=try_route)[1])
    assert (made["outcome"], made["index"]) == ("forwarded", 1)
    assert made["candidates"][1]["reason"] == "/users/me goes first: the literal 'me' before a parameter"


def test_a_request_that_no_route_takes(run):
    assert run("-c", "good.yaml", "-p", "/nobody", verb=try_route) == (1, "not found 404: no route has this path\n")
    code, out = run("-c", "good.yaml", "-p", "/users/7", "-m", "put", verb=try_route)
    assert code == 1
    assert out.startswith(
        "method not allowed 405: no route of this path and host takes PUT: Allow: GET, HEAD, OPTIONS\n"
    )


def test_backends_are_connected_to_where_that_is_wanted(run):
    with socket.socket() as listener, socket.socket() as closed:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        closed.bind(("127.0.0.1", 0))
        live, dead = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in (listener, closed))
        route = {"external_path": "/", "internal_path": "/", "methods": ["GET"]}
        write("one.json", {"routers": [{**route, "backends": [{"host": live}, {"host": dead}]}]})
        write("none.json", {"routers": [{**route, "backends": [{"host": dead}]}]})
        code, out = run("-c", "one.json", "-p", "/", "--backend", verb=try_route)
        assert code == 0
        assert f"{live}  50%  answers" in out
        assert f"{dead}  50%  Connection refused" in out
        code, out = run("-c", "none.json", "-p", "/", "--backend", "-o", "json", verb=try_route)
        assert (code, json.loads(out)["reached"]) == (2, {dead: "Connection refused"})
