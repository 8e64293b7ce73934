"""How the configuration is changed while the gateway runs: what is refused changes nothing, nobody's change is lost,
and whoever is killed in the middle leaves a file and a gateway that agree.
"""

import contextlib
import hashlib
import json
import os
import resource
import stat
import subprocess
import threading

import pytest

from kairos.config.text import ConfigText
from kairos.control.source import STAGED, FileSource, SourceError
from tests.support.gateway import gateway, route

SECRET = "0123456789abcdef0123456789abcdef"
NOWHERE = "http://127.0.0.1:9"


def new_route(path):
    return {"external_path": path, "internal_path": path, "methods": ["GET"], "backends": [{"host": NOWHERE}]}


def serves(g, path):
    """Whether there is such a route: nobody listens behind it, which is another answer than 404."""
    return b" 404 " not in g.get(path)[0]


def in_use(g):
    """Tag of what every worker serves with."""
    status, answer = g.admin("GET", "/api/config/status")
    assert status == 200, answer
    workers = g.admin("GET", "/api/status")[1]["workers"]
    assert {worker["revision"] for worker in workers} == {answer["revision"]}
    return answer["etag"]


def of_file(g):
    return hashlib.sha256(g.config_path.read_bytes()).hexdigest()[:32]


def left(g):
    """What a write left beside the file."""
    return [path.name for path in g.folder.iterdir() if path.name.endswith(STAGED)]


@pytest.fixture(scope="module")
def g():
    config = {"routers": [route("/kept", NOWHERE)], "server": {"watch": True}, "_comment": "ours"}
    config["jwt"] = {"secret": "${CHANGES_SECRET}"}
    with gateway(config, workers=2, env={"CHANGES_SECRET": SECRET}) as made:
        yield made


@pytest.fixture
def unchanged(g):
    """Nothing may come of what a test does."""
    before = g.config_path.read_bytes(), in_use(g)
    yield
    assert (g.config_path.read_bytes(), in_use(g)) == before
    assert left(g) == []


# --- what a change is -----------------------------------------------------------------------------------------------


def test_a_change_is_in_use_everywhere_and_in_the_file_when_it_is_answered(g):
    before = in_use(g)
    status, answer = g.admin("POST", "/api/routes", new_route("/made"))
    assert (status, answer["changed"]) == (201, True)
    assert in_use(g) == of_file(g) == answer["etag"] != before
    assert serves(g, "/made")
    assert [(change["op"], change["route"]) for change in answer["diff"]] == [("add", "GET /made")]


def test_comments_and_references_stay(g):
    g.admin("POST", "/api/routes", new_route("/comments"))
    held = json.loads(g.config_path.read_bytes())
    assert held["_comment"] == "ours"
    assert held["jwt"] == {"secret": "${CHANGES_SECRET}"}
    assert SECRET not in g.config_path.read_text()


def test_what_says_nothing_new_makes_no_revision(g):
    answer = g.admin("POST", "/api/routes", new_route("/twice"))[1]
    again = g.admin("PUT", "/api/routes/twice", answer["route"])[1]
    assert (again["changed"], again["revision"], again["etag"]) == (False, answer["revision"], answer["etag"])


def test_a_dry_run_tells_and_changes_nothing(g, unchanged):
    status, answer = g.admin("POST", "/api/routes?dry_run=1", new_route("/dry"))
    assert (status, answer["dry_run"]) == (200, True)
    assert answer["diff"][0]["route"] == "GET /dry"
    assert "/dry" in answer["text_diff"]
    assert not serves(g, "/dry")


def test_two_writers_at_once_lose_nothing(g):
    answers = []

    def write(who):
        paths = [f"/{who}/{number}" for number in range(25)]
        answers.extend(g.admin("POST", f"/api/routes?message={who}", new_route(path))[0] for path in paths)

    writers = [threading.Thread(target=write, args=(who,)) for who in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert answers == [201] * 50
    paths = {found["external_path"] for found in g.admin("GET", "/api/routes")[1]["routes"]}
    assert {f"/{who}/{number}" for who in ("one", "two") for number in range(25)} <= paths
    assert in_use(g) == of_file(g)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_bad_configuration_is_refused_with_its_reasons(g, unchanged):
    status, answer = g.admin("PUT", "/api/config/sections/limits", {"head_bytes": 1})
    assert status == 422
    assert "limits.head_bytes" in answer["problems"][0]


def test_what_a_process_refuses_is_refused(g, unchanged):
    status, answer = g.admin("PUT", "/api/config/sections/access_log", {"file": "/nowhere/at/all"})
    assert status == 422
    assert "/nowhere/at/all" in " ".join(answer["problems"])


def test_a_file_without_write_permission_stays(g, unchanged):
    g.config_path.chmod(0o444)
    status, answer = g.admin("POST", "/api/routes", new_route("/read-only"))
    g.config_path.chmod(0o600)
    assert status == 409
    assert "cannot be written" in answer["detail"]
    assert "nothing has changed" in answer["detail"]


def test_a_full_disk_is_said_and_changes_nothing(g, unchanged):
    control = g.children()["kairos-control"]
    before = resource.prlimit(control, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    status, answer = g.admin("POST", "/api/routes", new_route("/full"))
    resource.prlimit(control, resource.RLIMIT_FSIZE, before)
    assert status == 507
    assert "there is no room" in answer["detail"]


def test_a_file_that_was_edited_and_not_loaded_is_never_overwritten(g):
    before = g.config_path.read_bytes()
    g.config_path.write_bytes(before[:-2])  # no JSON any more: the watch cannot load it
    try:
        status, answer = g.admin("POST", "/api/routes", new_route("/over"))
        assert status == 409
        assert "POST /api/config/reload" in answer["detail"]
        assert g.config_path.read_bytes() == before[:-2]
    finally:
        g.config_path.write_bytes(before)


# --- the file -------------------------------------------------------------------------------------------------------


def change_of(path, data):
    return ConfigText(data, "json", str(path), "api", replaces=hashlib.sha256(path.read_bytes()).hexdigest())


def test_owner_mode_and_links_stay(tmp_path):
    file, link = tmp_path / "real.json", tmp_path / "config.json"
    file.write_bytes(b"old")
    file.chmod(0o640)
    os.chown(file, 12, 34)
    link.symlink_to("real.json")
    FileSource(str(link)).stage(change_of(file, b"new")).commit()
    status = file.stat()
    assert (file.read_bytes(), os.readlink(link)) == (b"new", "real.json")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "real.json"]


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(b"old")
    staged = FileSource(str(file)).stage(change_of(file, b"new"))
    file.write_bytes(b"theirs")
    with pytest.raises(SourceError, match="somebody else"):
        staged.commit()
    assert file.read_bytes() == b"theirs"


def test_a_file_that_is_a_mount_is_refused_before_anything_is_tried(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(b"old")
    look = (
        "import sys; from pathlib import Path; from tests.control.test_changes import *; file = Path(sys.argv[1])\n"
        "try: FileSource(str(file)).stage(change_of(file, b'new'))\n"
        "except SourceError as error: print(error.why, error)"
    )
    shell = f'mount --bind "{file}" "{file}" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", shell, "sh", os.sys.executable, "-c", look, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("mounts need more rights")
    assert done.stdout.startswith("read_only"), done
    assert "is a mount of its own" in done.stdout


# --- kill -9 --------------------------------------------------------------------------------------------------------

KILLER = '''
"""Kills the control process, or the whole gateway, at one step of a write: known by what it does to files."""
import os, signal, sys, threading

WISH = os.environ["KILL_AT"]
mine = threading.local()  # what another thread opens meanwhile is looked at all the same
renamed = False


def hook(event, arguments):
    global renamed
    if getattr(mine, "busy", False) or event not in ("open", "os.chmod", "os.rename") or not os.path.exists(WISH):
        return
    mine.busy = True
    try:
        with open(WISH) as file:
            step, whom, folder = file.read().split()
    except (OSError, ValueError):  # gone by now, or not yet written
        return
    finally:
        mine.busy = False
    first = arguments[0] if isinstance(arguments[0], int) else os.fsdecode(arguments[0])
    staged = str(first).endswith(".kairos-new")
    steps = {
        "stage": event == "open" and staged,
        "staged": event == "os.chmod" and isinstance(first, int),
        "prepare": event == "open" and str(first).endswith("access.log"),
        "used": event == "os.rename" and staged,
        "renamed": event == "open" and first == folder and renamed,
    }
    renamed = renamed or steps["used"]
    if steps[step]:
        os.unlink(WISH)
        if whom == "all":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(hook)
'''
STEPS = ("stage", "staged", "prepare", "used", "renamed")


@pytest.fixture(scope="module")
def doomed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killer")
    (folder / "sitecustomize.py").write_text(KILLER)
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = {"PYTHONPATH": path, "KILL_AT": str(folder / "wish")}
    with gateway({"routers": [route("/kept", NOWHERE)]}, workers=2, env=env) as made:
        made.wish = folder / "wish"
        yield made


def write_and_die(g, step, whom):
    """Texts before and, had it been written, after."""
    before = g.config_path.read_bytes()
    path = f"/{step}/{whom}"
    after = g.admin("POST", "/api/routes?dry_run=1", new_route(path))[1]["etag"]
    old = g.children()["kairos-control"]
    g.wish.write_text(f"{step} {whom} {g.folder}")
    with contextlib.suppress(OSError, EOFError):
        g.admin("POST", "/api/routes", new_route(path))
    g.wait(lambda: not g.wish.exists(), "the kill")
    return hashlib.sha256(before).hexdigest()[:32], after, path, old


def agrees(g, before, after, path):
    """Whether file, workers and answers tell the same, and nothing is left."""
    g.wait(lambda: in_use(g) == of_file(g), "file and gateway that agree")
    made = of_file(g) == after
    assert made or of_file(g) == before
    assert serves(g, path) is made
    assert left(g) == []
    assert g.admin("DELETE", f"/api/routes{path}")[0] == (200 if made else 404)
    assert in_use(g) == of_file(g)


@pytest.mark.parametrize("step", STEPS)
def test_control_may_be_killed_at_any_step(doomed, step):
    before, after, path, old = write_and_die(doomed, step, "control")
    doomed.wait(lambda: doomed.children().get("kairos-control", old) != old, "the next control process")
    agrees(doomed, before, after, path)


@pytest.mark.parametrize("step", ["staged", "used"])
def test_the_gateway_may_be_killed_at_any_step(doomed, step):
    before, after, path, _ = write_and_die(doomed, step, "all")
    doomed.process.wait(25)
    doomed.restart()
    agrees(doomed, before, after, path)
