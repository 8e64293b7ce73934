"""The two commands, as a shell sees them: what they print, and how they end."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kairos.cli import manage
from tests.supervisor.conftest import ROOT, until

GOOD = {
    "version": 1,
    "server": {"host": "127.0.0.1", "port": 0, "workers": 1},
    "jwt": {"secret": "0123456789abcdef0123456789abcdef"},
    "routers": [
        {
            "external_path": "/a",
            "internal_path": "/b",
            "methods": ["GET"],
            "backends": [{"host": "https://10.0.0.1", "port": 9000}],
            "rate_limit": {"redis_url": "redis://user:hunter2@127.0.0.1/0"},
            "request_transformation": {
                "headers": [
                    {"action": "set", "name": "X-Api-Key", "value": "hunter2"},
                    {"action": "set", "name": "X-A", "value": "b"},
                ]
            },
        }
    ],
}
BAD = """{
  "version": 1,
  "sever": {},
  "routers": [
    {"external_path": "/a", "internal_path": "/a", "methods": ["GTE"],
     "backends": [{"host": "http://127.0.0.1", "port": 99999}]}
  ]
}"""


class Shell:
    def __init__(self, folder):
        self.folder = folder
        self.state = f"{folder}-state"
        self.processes = []

    def write(self, text, name="config.json"):
        (self.folder / name).write_text(text if isinstance(text, str) else json.dumps(text))

    def start(self, command, *arguments, **env):
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("KAIROS_", "NO_COLOR"))}
        process = subprocess.Popen(
            [sys.executable, "-m", f"kairos.cli.{command}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder), "KAIROS_STATE_DIR": self.state, **env},
        )
        self.processes.append(process)
        return process

    def run(self, command, *arguments, **env):
        """Exit code, standard output, standard error."""
        process = self.start(command, *arguments, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def gateway(self, *arguments, **env):
        return self.run("gateway", *arguments, **env)

    def kairos(self, *arguments, **env):
        return self.run("manage", *arguments, **env)


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path)
    shell.write(GOOD)
    yield shell
    for process in shell.processes:
        with process:  # closes its pipes
            process.kill()


# --- --check and validate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("gateway", "--check"), ("manage", "config", "validate")])
def test_a_good_configuration(shell, command):
    code, out, err = shell.run(*command)
    assert code == 0
    assert re.fullmatch(r"./config.json: good: 1 route, 1 backend; (no remarks|\d .*)\n", out)
    assert "error" not in err


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [(("gateway", "--check", "-c", "bad.json"), 2), (("manage", "config", "validate", "bad.json"), 1)],
    ids=["gateway", "manage"],
)
def test_every_problem_of_a_bad_one_has_its_line(shell, command, exit_code):
    shell.write(BAD, "bad.json")
    code, out, err = shell.run(*command)
    assert code == exit_code
    assert [line.split(": ")[:3] for line in err.splitlines() if ": error:" in line] == [
        ["bad.json:3", "error", "sever"],
        ["bad.json:5", "error", "routers[0].methods[0]"],
        ["bad.json:6", "error", "routers[0].backends[0].port"],
    ]
    assert re.fullmatch(r"bad.json: cannot be used: 3 errors.*\n", out)


def test_check_starts_nothing(shell):
    shell.write({**GOOD, "server": {"host": "192.0.2.1", "port": 1}})
    assert shell.gateway("--check")[0] == 0


def test_weak_secrets_need_insecure_dev(shell):
    shell.write({**GOOD, "jwt": {"secret": "weak"}})
    assert shell.gateway("--check")[0] == 2
    assert shell.gateway("--check", "--insecure-dev")[0] == 0
    assert shell.kairos("config", "validate", "--insecure-dev")[0] == 0


# --- a start that fails -------------------------------------------------------------------------------------------


def test_a_bad_configuration_starts_nothing(shell):
    shell.write(BAD)
    code, out, err = shell.gateway()
    assert code == 2
    assert len([line for line in err.splitlines() if line.startswith("./config.json:") and ": error:" in line]) == 3
    assert "ready" not in out + err


def test_no_configuration_at_all(shell):
    (shell.folder / "config.json").unlink()
    for run in (lambda: shell.gateway(), lambda: shell.kairos("config", "show")):
        code, _, err = run()
        assert code == 2
        assert "./config.json does not exist: name a configuration with --config or KAIROS_CONFIG_PATH" in err
    code, _, err = shell.gateway("-c", "other.json")
    assert code == 2
    assert "other.json: error: Cannot resolve config path: No such file or directory" in err


def test_a_port_in_use(shell):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = shell.gateway("--port", str(port))
    assert code == 3
    assert f"port {port} is in use by another process; choose another with --port or stop it" in err


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("KAIROS_PORT", "99999", "not in the range"),
        ("KAIROS_PORT", "http", "not a valid int"),
        ("KAIROS_ADMIN_PORT", "http", "not a valid int"),
        ("KAIROS_WORKERS", "0", "not in the range"),
        ("KAIROS_LOG", "loud", "is not one of"),
    ],
)
def test_a_bad_environment_is_an_error(shell, variable, value, reason):
    code, _, err = shell.gateway("--check", **{variable: value})
    assert code == 2
    assert f"Environment variable {variable}: " in err
    assert reason in err


@pytest.mark.parametrize(
    "arguments", [("--port", "x"), ("--workers", "0"), ("--log", "loud"), ("--nonsense",), ("extra",)]
)
def test_a_bad_command_line_is_an_error(shell, arguments):
    assert shell.gateway("--check", *arguments)[0] == 2


# --- precedence ---------------------------------------------------------------------------------------------------


def started(shell, *arguments, **env):
    """The start line of a gateway with what it logged before, and then its end."""
    process = shell.start("gateway", *arguments, **env)
    log = ""
    while " is ready on " not in log:
        line = process.stderr.readline()
        assert line, log
        log += line
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    return log


def test_the_file_is_used_when_nothing_else_says_so(shell):
    line = started(shell)
    assert re.search(r"kairos \S+ is ready on http://127.0.0.1:\d+ with 1 worker after \d+\.\d\d s", line)


def test_environment_beats_file(shell):
    shell.write({**GOOD, "server": {"host": "192.0.2.1", "port": 1}}, "env.json")
    env = {"KAIROS_CONFIG_PATH": "env.json", "KAIROS_HOST": "127.0.0.2", "KAIROS_PORT": "0", "KAIROS_WORKERS": "2"}
    assert re.search(r"http://127.0.0.2:\d+ with 2 workers", started(shell, **env))


def test_command_line_beats_environment(shell):
    env = {"KAIROS_CONFIG_PATH": "none.json", "KAIROS_HOST": "192.0.2.1", "KAIROS_PORT": "1", "KAIROS_WORKERS": "9"}
    line = started(shell, "-c", "config.json", "--host", "127.0.0.3", "-p", "0", "-w", "3", **env)
    assert re.search(r"http://127.0.0.3:\d+ with 3 workers", line)


def test_an_empty_variable_counts_as_unset(shell):
    assert shell.gateway("--check", KAIROS_PORT="", KAIROS_CONFIG_PATH="", KAIROS_LOG="")[0] == 0


def test_log_level(shell):
    assert '"level":"debug"' in started(shell, KAIROS_LOG="DEBUG")
    assert '"level":"debug"' not in started(shell)


def test_nothing_is_left_behind(shell):
    before = set(shell.folder.iterdir())
    started(shell)
    until(lambda: set(shell.folder.iterdir()) == before)


# --- texts --------------------------------------------------------------------------------------------------------


def test_help_tells_signals_exit_codes_and_environment(shell):
    code, out, _ = shell.gateway("-h")
    assert code == 0
    words = (
        "--insecure-dev", "KAIROS_CONFIG_PATH", "TTIN, TTOU", "HUP ", "USR2 ", "upgrade  ", "Exit codes:",
        "2  bad command line",
    )  # fmt: skip
    for word in words:
        assert word in out
    assert max(map(len, out.splitlines())) <= 110


def test_versions(shell):
    assert re.fullmatch(r"kairos-gateway \d+\.\d+\.\d+\n", shell.gateway("--version")[1])
    assert re.fullmatch(r"kairos \d+\.\d+\.\d+, Python \S+, \S+\n", shell.kairos("version")[1])


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_only_on_a_terminal_that_wants_them(shell, no_color):
    ours, theirs = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "kairos.cli.gateway", "--check"],
            stdout=theirs,
            stderr=theirs,
            cwd=shell.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": no_color},
            check=True,
        )
        assert (b"\x1b[3" in os.read(ours, 1 << 16)) == (not no_color)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b" not in "".join(shell.gateway("--check")[1:])


def test_show_masks_secrets_and_loads_again(shell):
    code, out, _ = shell.kairos("config", "show")
    assert code == 0
    assert "hunter2" not in out
    shown = json.loads(out)
    (route,) = shown["routers"]
    assert shown["jwt"]["secret"] == "***"
    assert route["rate_limit"]["redis_url"] == "redis://user:***@127.0.0.1/0"
    assert [rule["value"] for rule in route["request_transformation"]["headers"]] == ["***", "b"]
    shell.write(out, "again.json")
    assert json.loads(shell.kairos("config", "show", "again.json")[1]) == shown


def test_show_of_a_bad_file(shell):
    shell.write(BAD, "bad.json")
    code, out, err = shell.kairos("config", "show", "bad.json")
    assert (code, out) == (1, "")
    assert "bad.json:3: error: sever" in err


def test_schema_is_json(shell):
    code, out, _ = shell.kairos("config", "schema")
    assert code == 0
    assert "routers" in json.loads(out)["$defs"]["Config"]["properties"]


# --- a running gateway --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def gateway_in(shell):
    """A gateway that runs in the shell's folder."""
    process = shell.start("gateway")
    try:
        while " is ready on " not in process.stderr.readline():
            assert process.poll() is None
        until(lambda: shell.kairos("revisions", "-o", "json")[1].startswith("[\n"), "a kept revision")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.fixture
def running(shell):
    with gateway_in(shell) as process:
        yield process


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A shell with a gateway for all who leave it as it is."""
    shell = Shell(tmp_path_factory.mktemp("served"))
    shell.write(GOOD)
    with gateway_in(shell):
        yield shell


def test_status_for_people_and_for_programs(served):
    code, out, err = served.kairos("status")
    assert (code, err) == (0, "")
    assert re.search(rf"^kairos \d\S+, process {served.processes[0].pid}, running for \d+ s$", out, re.M)
    assert re.search(r"^configuration \S+/config.json, revision 1$", out, re.M)
    assert re.search(r"^WORKER +PROCESS +REVISION +CONNECTIONS +REQUESTS\n0 +\d+ +1 +0 +0$", out, re.M)
    assert json.loads(served.kairos("status", "-o", "json")[1])["pid"] == served.processes[0].pid


def test_backends_are_listed_and_set(served):
    key = "https://10.0.0.1:9000"
    for command in (("backends",), ("backends", "list")):
        assert re.search(rf"^BACKEND +STATE .*\n{key} +healthy +100 % +closed ", served.kairos(*command)[1], re.M)

    def said(*command):
        code, out, err = served.kairos("backends", "-o", "json", *command)
        assert (code, err) == (0, "")
        return json.loads(out)

    assert said()[0]["key"] == key
    assert said("drain", key)["state"] == "draining"
    assert said("maintenance", ":9000")["state"] == "maintenance"
    assert said("activate", key)["state"] == "healthy"
    assert said("weight", key, "25")["weight"] == 25
    assert said("breaker", key, "open")["breaker_forced"] == "open"
    assert said("breaker", key, "auto")["breaker_forced"] is None


@pytest.mark.parametrize(
    ("command", "expected", "reason"),
    [
        (("backends", "drain", "http://10.0.0.2"), 1, "no route has a backend 'http://10.0.0.2': did you mean"),
        (("backends", "probe", "https://10.0.0.1:9000"), 1, "has no health check"),
        (("backends", "weight", "https://10.0.0.1:9000", "101"), 2, "101 is not in the range"),
        (("revisions", "show", "9"), 1, "revision 9 is not kept"),
    ],
)
def test_what_cannot_be_done_says_why(served, command, expected, reason):
    code, out, err = served.kairos(*command)
    assert (code, out) == (expected, "")
    assert reason in err


def test_reload_waits_for_the_outcome(shell, running):
    assert shell.kairos("reload") == (0, "revision 2 is in use\n", "")
    shell.write(BAD)
    code, out, err = shell.kairos("reload")
    assert (code, out) == (1, "")
    assert [line.split(": ")[:3] for line in err.splitlines() if ": error:" in line] == [
        ["./config.json:3", "error", "sever"],
        ["./config.json:5", "error", "routers[0].methods[0]"],
        ["./config.json:6", "error", "routers[0].backends[0].port"],
    ]
    assert err.endswith("revision 2 stays in use\n")
    until(lambda: "The last reload was refused:" in shell.kairos("status")[1], "the refusal in the status")


def test_revisions_are_listed_and_shown(served):
    code, out, _ = served.kairos("revisions")
    assert code == 0
    assert re.search(r"^REVISION .*\n1 +20\d\d-\S+ \S+ +- +start +[0-9a-f]{12}$", out, re.M)
    code, out, _ = served.kairos("revisions", "show", "1")
    assert (code, json.loads(out)["jwt"]) == (0, {"secret": "***"})


def test_no_gateway_here(shell):
    code, out, err = shell.kairos("status")
    assert (code, out) == (2, "")
    assert err == (
        f"no gateway runs here: there is no {shell.state}/admin.sock; name the state folder of another with "
        "--state-dir or KAIROS_STATE_DIR\n"
    )
    code, _, err = shell.kairos("backends", "--state-dir", "/nowhere", "drain", "x")
    assert code == 2
    assert "there is no /nowhere/admin.sock" in err


def test_a_gateway_that_is_gone(shell, running):
    workers = [worker["pid"] for worker in json.loads(shell.kairos("status", "-o", "json")[1])["workers"]]
    running.kill()
    until(lambda: shell.kairos("status")[0] == 2, "the end of the control process")
    assert "no gateway runs here any more" in shell.kairos("reload")[2]
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "the end of the workers")


def test_the_help_of_each_verb_says_what_it_does():
    verbs = [
        ("status",), ("backends",), ("reload",), ("revisions",), ("upgrade",), ("revisions", "show"),
        *(("backends", verb) for verb in ("drain", "maintenance", "activate", "weight", "breaker", "probe")),
    ]  # fmt: skip
    for verb in verbs:
        told = CliRunner().invoke(manage.main, [*verb, "-h"])
        assert told.exit_code == 0
        assert re.search(r"\n  [A-Z][^\n]{15,}\.\n", told.output), told.output
        assert max(map(len, told.output.splitlines())) <= 110
