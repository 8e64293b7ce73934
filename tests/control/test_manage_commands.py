"""`kairos` beside a gateway that runs: routes and the whole configuration, changed and explained; the shell."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner
from prompt_toolkit.document import Document

from kairos.cli import shell
from kairos.cli.manage import main
from tests.support.gateway import gateway, route
from tests.support.net import echo, origin


@pytest.fixture(scope="module")
def one():
    with origin(echo) as backend, gateway({"routers": [route("/a", backend.url)]}) as g:
        g.backend = backend.url
        yield g


def kairos(g, *arguments, code=0, **options):
    done = CliRunner().invoke(main, [*map(str, arguments), "--state-dir", str(g.state_dir)], **options)
    assert done.exit_code == code, done.output
    return done.output


def status(g, path):
    return int(g.get(path)[0].split()[1])


def test_a_route_is_added_shown_edited_and_removed(one):
    said = kairos(one, "routes", "add", "--path", "/b", "--backend", one.backend, "-m", "for the shop")
    assert said.startswith("Route created")
    assert status(one, "/b") == 200
    listed = [line.split() for line in kairos(one, "routes").splitlines()]
    assert ["/b", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS", "*", "http", one.backend, "-"] in listed
    shown = json.loads(kairos(one, "routes", "show", "/b"))
    edited = json.dumps({**shown, "internal_path": "/elsewhere"})
    assert "Route updated" in kairos(one, "routes", "edit", "/b", "--file", "-", input=edited)
    assert json.loads(kairos(one, "routes", "show", "/b"))["internal_path"] == "/elsewhere"
    assert "Route deleted" in kairos(one, "routes", "rm", "/b")
    assert status(one, "/b") == 404


def test_a_dry_run_tells_and_changes_nothing(one):
    said = kairos(one, "routes", "add", "--path", "/dry", "--backend", one.backend, "--dry-run")
    assert '"external_path": "/dry"' in said or "/dry" in said
    assert status(one, "/dry") == 404


def test_what_makes_no_sense_says_why(one):
    assert "no port" not in kairos(one, "routes", "add", "--path", "/x", code=2)
    assert "/nowhere" in kairos(one, "routes", "rm", "/nowhere", code=1)
    bad = kairos(one, "routes", "add", "-", code=1, input=json.dumps({**route("/x", one.backend), "methods": ["get"]}))
    assert "methods" in bad
    assert "not JSON" in kairos(one, "routes", "add", "-", code=3, input="{")


def test_what_would_become_of_a_request(one):
    said = kairos(one, "routes", "explain", "/a?x=1", "-H", "X-A: b")
    assert one.backend in said
    assert "/a" in said
    assert json.loads(kairos(one, "routes", "explain", "/none", "-o", "json"))["outcome"] == "not_found"


def test_the_whole_configuration_is_put_in_place(one, tmp_path):
    running = json.loads(kairos(one, "config", "running"))
    running["routers"].append(route("/c", one.backend))
    file = tmp_path / "new.json"
    file.write_text(json.dumps(running))
    assert "/c" in kairos(one, "config", "apply", file, "--dry-run")
    assert status(one, "/c") == 404
    kairos(one, "config", "apply", file, "-m", "more")
    assert status(one, "/c") == 200
    file.write_text(json.dumps({**running, "routers": [{"external_path": "c"}]}))
    assert "routers[0]" in kairos(one, "config", "apply", file, code=1)


def test_a_change_is_taken_back(one):
    kairos(one, "routes", "add", "--path", "/oops", "--backend", one.backend, "-m", "by mistake")
    assert status(one, "/oops") == 200
    newest = int(kairos(one, "config", "history").splitlines()[1].split()[0])
    assert "by mistake" in kairos(one, "revisions")
    assert "/oops" in kairos(one, "revisions", "diff", newest - 1)
    kairos(one, "config", "rollback", newest - 1)
    assert status(one, "/oops") == 404


def test_health_for_scripts(one):
    assert kairos(one, "health", "--check-backends").splitlines()[0].startswith("healthy")
    drained = kairos(one, "backends", "drain", one.backend)
    assert "draining" in drained
    assert kairos(one, "health").startswith("healthy")
    assert kairos(one, "health", "--check-backends", code=1).startswith("unhealthy")
    kairos(one, "backends", "activate", one.backend)


def test_metrics_now_over_time_and_for_prometheus(one):
    assert status(one, "/a") == 200
    assert "requests" in kairos(one, "metrics")
    assert json.loads(kairos(one, "metrics", "--format", "json"))["requests_total"] >= 1
    lines = kairos(one, "metrics", "--format", "prometheus", "--filter", "kairos_requests_total").splitlines()
    assert any(line.startswith("kairos_requests_total ") for line in lines)
    names = [line.split()[0] for line in kairos(one, "metrics", "list").splitlines()[1:]]
    assert "requests_total" in names or "requests" in names
    said = kairos(one, "metrics", "query", names[0], "--since", "-15m", "--step", "60")
    assert said.startswith(("FROM", "nothing of that was counted"))  # as far as there was a sample
    assert "is no time" in kairos(one, "metrics", "query", names[0], "--since", "yesterday", code=1)


def test_top_shows_workers_and_backends(one):
    said = kairos(one, "top", "--once")
    assert one.backend in said
    assert "under way" in said


def test_requests_are_followed(one):
    for _ in range(3):
        assert status(one, "/a") == 200
    said = kairos(one, "logs", "tail", "--path", "/a", "-n", 3, "-o", "json")
    assert [json.loads(line)["status"] for line in said.splitlines()] == [200] * 3
    assert " GET " in kairos(one, "logs", "tail", "-n", 1)


def test_levels_are_set_and_go_back(one):
    assert "worker" in kairos(one, "logs", "levels")
    kairos(one, "logs", "levels", "worker=debug", "--for", 600)
    rows = {row["component"]: row for row in json.loads(kairos(one, "logs", "levels", "-o", "json"))}
    assert rows["worker"]["level"] == "debug"
    kairos(one, "logs", "levels", "all=reset")
    rows = {row["component"]: row for row in json.loads(kairos(one, "logs", "levels", "-o", "json"))}
    assert rows["worker"]["level"] == rows["worker"]["configured"]
    kairos(one, "logs", "levels", "worker", code=2)
    kairos(one, "logs", "levels", "worker=loud", code=1)


def test_what_happened_is_told(one):
    kairos(one, "reload")
    one.wait(lambda: "revision_in_use" in kairos(one, "events"), "an event of the reload")


def test_people_roles_and_tokens(one):
    said = kairos(one, "users", "add", "ann", "--role", "operator")
    assert "one-time password: " in said
    assert [line.split()[:2] for line in kairos(one, "users").splitlines() if line.startswith("ann")] == [
        ["ann", "operator"]
    ]
    assert "viewer" in kairos(one, "roles")
    token = kairos(one, "tokens", "new", "ann", "ci", "--scope", "status:read", "--days", 1).strip()
    assert token.startswith("kairos_")
    listed = kairos(one, "tokens", "list", "ann")
    assert " ci " in listed
    assert token not in listed
    kairos(one, "tokens", "revoke", "ann", listed.splitlines()[1].split()[0])
    assert "disabled" in kairos(one, "users", "change", "ann", "--disable")
    assert "one-time password: " in kairos(one, "users", "reset-password", "ann")
    kairos(one, "users", "rm", "ann")
    assert "ann" in kairos(one, "users", "rm", "ann", code=1)


def test_what_was_done_is_found_and_proved(one):
    one.wait(lambda: "ann" in kairos(one, "audit", "list", "--text", "ann"), "the entries")
    assert kairos(one, "audit", "verify").startswith("intact: ")
    assert json.loads(kairos(one, "audit", "export").splitlines()[0])["number"] == 1


def test_the_shell_reads_verbs_where_there_is_no_terminal(one):
    said = kairos(one, "shell", code=1, input="# first\nroutes\nroutes rm /none\n\nstatus\nexit\nbackends\n")
    assert "PATH" in said
    assert said.count("Route not found: /none") == 1
    assert "WORKER" in said
    assert "BACKEND " not in said
    assert "kairos>" not in said
    assert "unbalanced" not in kairos(one, "shell", code=2, input="no such 'verb")


def test_no_answer_speaks_of_none(one):
    for verb in (("metrics",), ("logs", "levels"), ("backends",), ("nodes",), ("revisions",), ("users",), ("audit",)):
        assert "None" not in kairos(one, *verb).split()
    names = [line.split()[0] for line in kairos(one, "metrics", "list").splitlines()[1:]]
    assert "kairos_http_requests_total" in names  # the example of its help
    said = kairos(one, "metrics", "query", "kairos_http_requests_total", "--since", "-3h", "--until", "-2h")
    assert said == "nothing of that was counted in this time\n"


def test_the_shell_runs_lines_and_completes_them(one, monkeypatch, capsys):
    monkeypatch.setenv("KAIROS_STATE_DIR", str(one.state_dir))
    shell.run(main, "routes")
    assert "/a" in capsys.readouterr().out
    shell.run(main, "no such 'verb")
    shell.run(main, "nonsense")
    assert "No such command" in capsys.readouterr().err
    found = shell.completer(main).get_completions(Document("backends dr"), None)
    assert [one.text for one in found] == ["drain"]


def test_completion_for_shells():
    done = CliRunner().invoke(main, ["completion", "zsh"])
    assert "#compdef kairos" in done.output


def test_every_verb_says_what_it_does():
    def walk(command, path):
        assert (command.help or "").strip(), path
        for name, below in getattr(command, "commands", {}).items():
            walk(below, [*path, name])

    assert isinstance(main, click.Group)
    walk(main, ["kairos"])
