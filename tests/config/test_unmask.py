"""What was read with masks and is written back: every secret is back in its place, or it is said why not."""

import copy

import pytest
from config_samples import SECRET, file, route
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos.config.mask import MASK, masked_plain
from kairos.config.problems import Findings
from kairos.config.unmask import unmasked

KEYS = [{"id": "one", "key_hash": "sha256:1"}, {"id": "two", "key_hash": "sha256:2"}]
OLD = file(
    route(external_path="/a", api_keys={"keys": KEYS}),
    route(external_path="/b", basic_auth={"users": [{"username": "u", "password_hash": "h"}]}),
    route(external_path="/c", request_transformation={"headers": [{"name": "X-Api-Key", "value": "k"}]}),
    jwt={"secret": SECRET, "issuers": [{"issuer": "i", "secret": "s"}, {"issuer": "j", "secret": "t"}]},
    redis={"url": "redis://user:pw@cache:6379/1"},
    oidc={"corp": {"client_secret": "${CORP}", "session": {"secrets": ["a", "b"]}}},
)


def back(new, old=OLD):
    """What comes of it, and `path: message` of each problem."""
    found = Findings()
    made = unmasked(new, old, found)
    return made, [f"{problem.path}: {problem.message}" for problem in found.problems]


def shown():
    return copy.deepcopy(masked_plain(OLD))


def test_what_is_written_back_as_it_was_read_is_what_was_there():
    assert SECRET not in str(shown())
    assert back(shown()) == (OLD, [])


def test_references_are_shown_as_they_are_written_unless_they_give_something_away():
    seen = masked_plain(
        {"jwt": {"secret": "${JWT}"}, "redis": {"password": "${PW:-sesame}"}, "ai": {"api_key": "${file:/k}"}}
    )
    assert seen == {"jwt": {"secret": "${JWT}"}, "redis": {"password": MASK}, "ai": {"api_key": "${file:/k}"}}


def test_a_reference_stays_one_and_a_secret_may_become_one():
    new = shown()
    assert new["oidc"]["corp"]["client_secret"] == "${CORP}"
    new["jwt"]["secret"] = "${JWT}"
    made, problems = back(new)
    assert (made["oidc"]["corp"]["client_secret"], made["jwt"]["secret"], problems) == ("${CORP}", "${JWT}", [])


def test_items_are_found_wherever_they_stand_now():
    new = shown()
    new["routers"].reverse()
    new["routers"].insert(0, route(external_path="/new"))
    new["routers"][-1]["api_keys"]["keys"].reverse()
    new["jwt"]["issuers"].reverse()
    made, problems = back(new)
    assert problems == []
    assert made["routers"][-1]["api_keys"]["keys"] == KEYS[::-1]
    assert [issuer["secret"] for issuer in made["jwt"]["issuers"]] == ["t", "s"]


def test_a_route_keeps_its_secrets_when_it_changes():
    new = shown()
    new["routers"][1]["methods"] = ["PUT"]
    new["routers"][2]["external_path"] = "/moved"
    made, problems = back(new)
    assert problems == []
    assert made["routers"][1]["basic_auth"]["users"][0]["password_hash"] == "h"
    assert made["routers"][2]["request_transformation"]["headers"][0]["value"] == "k"


def test_new_secrets_are_taken():
    new = shown()
    new["jwt"]["issuers"][0]["secret"] = "new"
    new["redis"]["url"] = "redis://user:other@elsewhere"
    made, problems = back(new)
    assert (made["jwt"]["issuers"][0]["secret"], made["jwt"]["issuers"][1]["secret"]) == ("new", "t")
    assert (made["redis"]["url"], problems) == ("redis://user:other@elsewhere", [])


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ({}, {"jwt": {"secret": MASK}}, "jwt.secret"),
        ({"redis": {"url": "redis://u:pw@one"}}, {"redis": {"url": f"redis://u:{MASK}@two"}}, "redis.url"),
        ({"redis": {"url": "redis://pw@one"}}, {"redis": {"url": f"redis://{MASK}@two"}}, "redis.url"),
        (
            file(route(api_keys={"keys": KEYS})),
            file(route(api_keys={"keys": [{"id": "three", "key_hash": MASK}, *KEYS]})),
            "routers[0].api_keys.keys[0].key_hash",
        ),
        (
            {},
            file(route(request_transformation={"headers": [{"name": "X-Api-Key", "value": MASK}]})),
            "routers[0].request_transformation.headers[0].value",
        ),
    ],
    ids=["nothing", "host", "token", "key", "header"],
)
def test_a_mask_that_stands_for_nothing_is_told_with_its_path(old, new, path):
    _, problems = back(new, old)
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: is a mask")


def test_a_secret_is_not_moved_to_where_it_would_be_shown():
    """A header of another name is no secret: what it had under the old one would stand there for all to read."""
    new = shown()
    new["routers"][2]["request_transformation"]["headers"][0]["name"] = "X-Seen"
    made, problems = back(new)
    (problem,) = problems
    assert problem.startswith("routers[2].request_transformation.headers[0].value: is a mask")
    assert made["routers"][2]["request_transformation"]["headers"][0]["value"] == MASK


def test_asterisks_where_no_secret_stands_are_a_text():
    new = file(route(respond={"body": MASK}))
    assert back(new, {}) == (new, [])


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(3)), st.sets(st.sampled_from(sorted(OLD))), st.sets(st.integers(0, 2)))
def test_no_secret_is_lost_or_goes_elsewhere(order, gone, dropped):
    """Whatever is moved or taken out: the rest is what it was."""
    new = {key: item for key, item in shown().items() if key not in gone}
    if "routers" in new:
        new["routers"] = [new["routers"][at] for at in order if at not in dropped]
    made, problems = back(new)
    assert problems == []
    wanted = {key: item for key, item in OLD.items() if key not in gone}
    if "routers" in wanted:
        wanted["routers"] = [OLD["routers"][at] for at in order if at not in dropped]
    assert made == wanted
