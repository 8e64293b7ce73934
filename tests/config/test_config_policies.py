"""Policies: set for all, for a group or for a route; the nearest one counts."""

from __future__ import annotations

from typing import Any

import pytest
from config_samples import file, read, route

from kairos.config.load import judged
from kairos.config.policies import effective
from kairos.config.problems import ConfigError

A, B, C = ({"allowed_origins": [f"https://{name}.example.com"]} for name in "abc")


def origins(document: Any) -> list[str] | None:
    config = judged(read(document)).config
    cors = effective(config.routers[0], config).cors
    return None if cors is None else [origin[8] for origin in cors.allowed_origins]


@pytest.mark.parametrize(("top", "group", "own", "found"), [
    (A, None, None, "a"),
    (A, B, None, "b"),
    (A, B, C, "c"),
    (None, B, None, "b"),
    (A, None, {"enabled": False}, None),
    (A, {"enabled": False}, None, None),
    (A, {"enabled": False}, C, "c"),
    (None, None, None, None),
])  # fmt: skip
def test_the_nearest_one_counts(top: Any, group: Any, own: Any, found: str | None) -> None:
    document = file(route(group="g", cors=own), groups={"g": {"cors": group}}, cors=top)
    assert origins(document) == (None if found is None else [found])


def test_a_group_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"there is no group 'brwosers', did you mean 'browsers'"):
        judged(read(file(route(group="brwosers"), groups={"browsers": {}})))


def test_older_spellings_are_known_in_groups_too() -> None:
    config = read(file(route(), groups={"g": {"rate_limit": {"requests_per_minute": 7}}})).config
    assert config is not None
    limit = config.groups["g"].rate_limit
    assert limit is not None
    assert (limit.requests_per_window, limit.window_duration) == (7, 60)
