"""The client's models and operations are what the API's description says."""

import subprocess
import sys
from pathlib import Path

from kairos.client.transport import Event, EventReader, InvalidError, Target, refused

ROOT = Path(__file__).parents[2]


def test_they_are_up_to_date():
    done = subprocess.run([sys.executable, "tools/client.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_events_are_read_line_by_line():
    reader, found = EventReader(), []
    for line in ("id: 7", "event: reload", 'data: {"revision":', "data: 3}", "", ": a comment", "data: plain", "", ""):
        found += reader.feed(line)
    assert found == [Event("7", "reload", {"revision": 3}), Event("7", "message", "plain")]


def test_an_error_says_what_and_why():
    import httpx

    body = {"detail": "2 problems", "problems": ["routers[0].path: is empty"]}
    error = refused(httpx.Response(422, json=body, request=httpx.Request("POST", "http://gw/api")))
    assert isinstance(error, InvalidError)
    assert (error.status, str(error), error.problems) == (422, "2 problems", ["routers[0].path: is empty"])


def test_where_a_gateway_is_comes_from_the_environment():
    assert Target.of_environment({"KAIROS_URL": "https://gw:5901", "KAIROS_TOKEN": "t"})[:3] == (
        "https://gw:5901",
        "t",
        None,
    )
    assert Target.of_environment({"KAIROS_STATE_DIR": "/s"}).socket == "/s/admin.sock"
    assert Target.of_environment({}).url == "http://127.0.0.1:5901"
