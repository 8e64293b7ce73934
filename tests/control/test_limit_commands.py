"""Rate limits as operators see them."""

from __future__ import annotations

from click.testing import CliRunner

from kairos.cli.manage import main
from tests.support.gateway import gateway, route
from tests.support.net import echo, origin


def test_limits_are_shown_with_what_they_did() -> None:
    with origin(echo) as o:
        limit = {"requests_per_window": 2, "window_duration": 3600}
        routers = [route("/a", o.url, rate_limit=limit), route("/b", o.url)]
        with gateway({"routers": routers, "rate_limit": {"window_type": "TokenBucket"}}) as g:
            for _ in range(3):
                g.get("/a")
            status, answer = g.admin("GET", "/api/limits")
            assert status == 200
            assert answer["limits"] == [
                {"limit": "global", "allowed": 2, "limited": 0, "unshared": 0},
                {"limit": "/a", "allowed": 2, "limited": 1, "unshared": 0},
                {"limit": "API keys", "allowed": 0, "limited": 0, "unshared": 0},
            ]
            assert [(table["table"], table["keys"]) for table in answer["tables"]] == [("counts", 1), ("windows", 1)]
            shown = CliRunner().invoke(main, ["limits", "--state-dir", str(g.state_dir)])
            assert shown.exit_code == 0, shown.output
            assert ["/a", "2", "1", "0"] in [line.split() for line in shown.output.splitlines()]
            assert "1 of 262144" in shown.output
