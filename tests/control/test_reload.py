"""Reloads of a real gateway: by a change of the file, by command, by HUP; good files and bad ones."""

import os
import signal

import pytest

from tests.support.gateway import gateway, route


def routes(*paths, **server):
    return {"server": {"watch": True, **server}, "routers": [route(path, "http://127.0.0.1:1") for path in paths]}


def serves(g, path):
    """Whether there is such a route: nobody listens behind it, which is another answer than 404."""
    return b" 404 " not in g.get(path)[0]


def wait_serving(g, path):
    g.wait(lambda: serves(g, path), f"a route {path}")


def wait_status(g, condition, what):
    g.wait(lambda: condition(g.admin("GET", "/api/status")[1]), what)


@pytest.fixture
def g():
    with gateway(routes("/a"), workers=2) as made:
        yield made


def test_a_file_rewritten_in_place(g):
    g.write(routes("/a", "/b"))
    wait_serving(g, "/b")
    g.wait_log('"reason":"file change"')


def test_a_file_renamed_over(g):
    text = g.config_path.read_text()
    new = g.folder / "new"
    new.write_text(text.replace('"/a"', '"/b"'))
    new.rename(g.config_path)
    wait_serving(g, "/b")


def test_a_file_deleted_and_created(g):
    text = g.config_path.read_text()
    g.config_path.unlink()
    g.wait_log("the configuration file is gone; the revision in use stays")
    assert serves(g, "/a")
    g.config_path.write_text(text.replace('"/a"', '"/b"'))
    wait_serving(g, "/b")


def test_a_config_map_that_is_swapped(g):
    text = g.config_path.read_text()
    (g.folder / "..1").mkdir()
    (g.folder / "..1/config.json").write_text(text)
    (g.folder / "..data").symlink_to("..1")
    (g.folder / "link").symlink_to("..data/config.json")
    (g.folder / "link").rename(g.config_path)
    for number, path in enumerate(("/b", "/c"), 2):
        (g.folder / f"..{number}").mkdir()
        (g.folder / f"..{number}/config.json").write_text(text.replace('"/a"', f'"{path}"'))
        (g.folder / "..data_tmp").symlink_to(f"..{number}")
        (g.folder / "..data_tmp").rename(g.folder / "..data")
        wait_serving(g, path)


def test_a_bad_file_changes_nothing_and_is_reported(g):
    good = g.config_path.read_text()
    g.config_path.write_text(good.replace("methods", "mothods"))
    g.wait_log("reload refused")
    assert serves(g, "/a")
    status, answer = g.admin("POST", "/api/reload")
    assert status == 422
    assert any(problem.startswith(f"{g.config_path}:1: error: ") for problem in answer["problems"])
    assert "revision 1 stays in use" in answer["detail"]
    wait_status(g, lambda status: status["reloads"]["problems"] == answer["problems"], "the problems in the status")
    g.config_path.write_text(good.replace('"/a"', '"/b"'))
    wait_serving(g, "/b")
    wait_status(g, lambda status: status["reloads"]["problems"] == [], "a good outcome")
    reloads = g.admin("GET", "/api/status")[1]["reloads"]
    assert reloads["done"] == 1
    assert reloads["failed"] >= 2
    assert reloads["last_at"] > 0


def test_a_file_that_is_only_touched_is_no_new_revision(g):
    revision = g.admin("GET", "/api/status")[1]["revision"]
    os.utime(g.config_path)
    g.config_path.write_text(g.config_path.read_text())
    g.write(routes("/a", "/b"))
    wait_serving(g, "/b")
    status = g.admin("GET", "/api/status")[1]
    assert status["revision"] == revision + 1
    assert status["reloads"]["done"] == 1


def test_without_watch_nothing_happens_by_itself(g):
    g.write(routes("/b", watch=False))
    wait_serving(g, "/b")
    g.write(routes("/c", watch=True))
    assert g.admin("GET", "/api/status")[1]["reloads"]["done"] == 1
    assert g.admin("POST", "/api/reload") == (200, {"revision": 3, "unchanged": False})
    assert serves(g, "/c")
    g.write(routes("/d"))
    wait_serving(g, "/d")


def test_a_change_while_there_is_no_control_process(g):
    control = g.child("kairos-control")
    os.kill(control, signal.SIGSTOP)  # it sees nothing any more
    g.write(routes("/b"))
    os.kill(control, signal.SIGKILL)
    wait_serving(g, "/b")


def test_a_change_of_what_the_file_refers_to(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    config = routes("/a", watch=False) | {"jwt": {"secret": f"${{file:{secret}}}"}}
    with gateway(config) as g:
        os.kill(g.child("kairos-control"), signal.SIGKILL)
        assert g.admin("GET", "/api/status")[1]["revision"] == 1
        g.signal(signal.SIGHUP)
        g.wait_log("revision 2 is in use")
        secret.write_text("fedcba9876543210fedcba9876543210")
        g.write(config | routes("/a", watch=True))
        assert g.admin("POST", "/api/reload")[1] == {"revision": 3, "unchanged": False}


def test_hup_and_commands_at_once_are_all_answered(g):
    for _ in range(5):
        g.signal(signal.SIGHUP)
        assert g.admin("POST", "/api/reload")[0] == 200
    wait_status(g, lambda status: len({worker["revision"] for worker in status["workers"]}) == 1, "one revision")
    assert serves(g, "/a")


def test_a_refusal_by_a_worker_is_a_problem_of_the_command(g):
    """What only shows when it is used: the log file cannot be opened."""
    g.config_path.write_text(g.config_path.read_text().replace("access.log", "none/access.log"))
    status, answer = g.admin("POST", "/api/reload")
    assert status == 422
    assert answer["problems"][0] == "reload abandoned: control refused it"
    assert "access_log.file: cannot open" in answer["problems"][1]


def test_reloads_show_in_the_metrics(g):
    g.write(routes("/b"))
    wait_serving(g, "/b")
    g.wait(lambda: 'kairos_config_reloads_total{result="success"} 1.0' in g.metrics(), "a reload in the metrics")
