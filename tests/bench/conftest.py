"""Running the example origins for tests: real processes on free ports."""

import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ORIGINS = Path(__file__).parents[2] / "examples" / "origins"


@contextmanager
def origin(script, *options):
    """Run an origin on a free port, yield the port it says, and see it end cleanly on SIGTERM."""
    command = [sys.executable, str(ORIGINS / script), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield int(re.search(r":(\d+)", child.stdout.readline())[1])
        finally:
            child.terminate()
            errors = child.communicate(timeout=25)[1]
    assert (child.returncode, errors) == (0, "")


@pytest.fixture(scope="module")
def http_origin():
    with origin("http_origin.py", "--name", "first") as port:
        yield port


@pytest.fixture
def ws_origin():
    with origin("ws_origin.py") as port:
        yield port
