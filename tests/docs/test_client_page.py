"""The page about the client library: its examples are run beside a gateway, in order."""

import re
import subprocess
import sys
from pathlib import Path

from kairos.client import transport
from tests.support.gateway import gateway, route

PAGE = Path(__file__).parents[2].joinpath("docs", "client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_examples_run():
    with gateway({"routers": [route("/", "http://127.0.0.1:1")]}) as g:
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(EXAMPLES)],
            capture_output=True,
            text=True,
            env={"KAIROS_STATE_DIR": str(g.state_dir), "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "running 1"
    assert any("/shop" in line for line in lines)
    assert any("methods" in line for line in lines)
    assert "0 {} complete" in lines
    assert len(EXAMPLES) == 5


def test_the_exceptions_are_those_of_the_statuses():
    listed = re.findall(r"^\| `(\w+)` \| ([\d, ]+)", PAGE, re.M)
    found = {int(status): name for name, statuses in listed for status in statuses.split(",")}
    assert found == {status: kind.__name__ for status, kind in transport._KINDS.items()}
