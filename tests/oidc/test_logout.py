"""Sessions that end before their time: by their user, so that copies of the cookie end too, and by the provider
(OpenID Connect Back-Channel Logout 1.0).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from structlog.testing import capture_logs

from kairos._speedups import cells
from kairos._speedups.cells import H_ENDED
from kairos.config.discovery import Ending, Endings, EndingsSince
from kairos.config.problems import ConfigError
from kairos.control import endings
from kairos.control.endings import EndedSessions, Ledger
from kairos.control.http import Request
from tests.oidc.browser import Page
from tests.oidc.fake_idp import FakeIdp, control
from tests.oidc.test_hostile import Stage, config
from tests.support.gateway import route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import echo, origin
from tests.support.redis import redis_server

PATH = "/oauth2/corp/backchannel-logout"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Told(Stage):
    """With a control process that tells the worker of endings, until `lose_control` is called."""

    lose_control: Callable[[], None]


@contextlib.contextmanager
def staged(file: Path | None = None, idp: FakeIdp | None = None) -> Iterator[Told]:
    """As in test_hostile."""
    served: list[InProcess] = []

    def changed() -> None:
        for one in served:
            one.board.page.add(H_ENDED, 1)

    idp, other = idp or FakeIdp(), FakeIdp()
    with contextlib.closing(idp), contextlib.closing(other), origin(echo) as backend, contextlib.ExitStack() as stack:
        document = config(idp, other, backend.url)
        path = stack.enter_context(control(checked(document), file, changed))
        with serving(document, path) as one:
            served.append(one)
            stage = Told(idp, other, one, backend.url)
            stage.lose_control = stack.close
            yield stage


@pytest.fixture
def stage() -> Iterator[Told]:
    with staged() as made:
        yield made


def log_in(stage: Stage, sid: str | None = None, sub: str = "ann") -> dict[str, str]:
    """A session's cookies, in a browser of its own."""
    stage.idp.changes = {"sid": sid, "sub": sub}
    stage.jar.clear()
    assert stage.back(stage.begin()).status == 303
    return dict(stage.jar)


def knows(stage: Stage, cookies: dict[str, str]) -> bool:
    """Whether a browser with these cookies is a user's."""
    stage.jar.clear()
    stage.jar.update(cookies)
    page = stage.browser.request(stage.url("/a/x"))
    assert page.status in (200, 302), page
    return page.status == 200


def tell(stage: Stage, token: str | None = None, **claims: Any) -> Page:
    """The provider says that something ended."""
    stage.jar.clear()
    token = stage.idp.logout_token(**claims) if token is None else token
    return stage.browser.request(stage.url(PATH), "POST", {}, {"logout_token": token})


def counted(stage: Stage, cell: int) -> int:
    board = stage.served.board
    return board.page.get(board.worker_block(0) + cell)


# --- told by the provider -------------------------------------------------------------------------------------------


def test_one_session_ends_and_others_of_the_user_go_on(stage: Stage) -> None:
    phone, desk = log_in(stage, "phone"), log_in(stage, "desk")
    page = tell(stage, sid="phone", sub="ann")
    assert (page.status, page.body, page.header("cache-control")) == (200, "", "no-store")
    assert [knows(stage, phone), knows(stage, desk)] == [False, True]
    assert knows(stage, log_in(stage, "phone again"))
    assert counted(stage, cells.W_OIDC_ENDED) == 1


def test_all_sessions_of_a_user_end_but_not_those_that_begin_later(stage: Stage) -> None:
    sessions = [log_in(stage, "phone"), log_in(stage), log_in(stage, sub="bob")]
    assert [knows(stage, cookies) for cookies in sessions] == [True] * 3
    assert tell(stage, sub="ann").status == 200
    assert [knows(stage, cookies) for cookies in sessions] == [False, False, True]
    assert knows(stage, log_in(stage, "phone"))


def test_a_token_is_used_once(stage: Stage) -> None:
    token = stage.idp.logout_token(sub="ann")
    assert tell(stage, token).status == 200
    later = log_in(stage)
    page = tell(stage, token)
    assert (page.status, json.loads(page.body)["error"]) == (400, "invalid_request")
    assert knows(stage, later)


PAST, LATER = time.time() - 1000, time.time() + 1000
EVENT = "http://schemas.openid.net/event/backchannel-logout"
BAD: list[tuple[str, dict[str, Any]]] = [
    ("another issuer's", {"iss": "https://evil.test"}),
    ("another client's", {"aud": "them"}),
    ("nobody's", {"aud": None}),
    ("expired", {"exp": PAST}),
    ("old, and silent on when it ends", {"exp": None, "iat": PAST}),
    ("of the future", {"iat": LATER}),
    ("no iat", {"iat": None}),
    ("no jti", {"jti": None}),
    ("an empty jti", {"jti": ""}),
    ("a number as jti", {"jti": 1}),
    ("no events", {"events": None}),
    ("another event", {"events": {"https://evil.test": {}}}),
    ("an event that is no object", {"events": {EVENT: True}}),
    ("events that are none", {"events": [EVENT]}),
    ("a nonce, as in ID tokens", {"nonce": "n"}),
    ("a sid that is no text", {"sid": ["desk"]}),
    ("nobody is named", {"sub": None}),
    ("an empty name", {"sub": ""}),
]


@pytest.fixture(scope="module")
def unmoved() -> Iterator[tuple[Stage, dict[str, str]]]:
    """A stage with a session that nothing ends."""
    with staged() as stage:
        yield stage, log_in(stage, "desk")


@pytest.mark.parametrize(("name", "changes"), BAD, ids=[name for name, _ in BAD])
def test_what_does_not_end_sessions(unmoved: tuple[Stage, dict[str, str]], name: str, changes: dict[str, Any]) -> None:
    stage, session = unmoved
    page = tell(stage, **{"sub": "ann", **changes})
    assert page.status == 400, name
    assert json.loads(page.body)["error"] == "invalid_request"
    assert knows(stage, session)


def test_tokens_of_others_do_not_end_sessions(unmoved: tuple[Stage, dict[str, str]]) -> None:
    stage, session = unmoved
    stage.idp.changes = {"sid": "desk", "aud": "us"}
    tokens = [stage.idp.id_token(), "", "a.b.c", "x" * 100]
    for signing in (
        {"key": stage.other.key}, {"key": None, "algorithm": "none"},
        {"headers": {"kid": stage.idp.kid, "typ": "at+jwt"}}, {"headers": {"kid": "unknown", "typ": "logout+jwt"}},
    ):  # fmt: skip
        stage.idp.signing = signing
        tokens.append(stage.idp.logout_token(sub="ann"))
    stage.idp.signing = {}
    assert [tell(stage, token).status for token in tokens] == [400] * len(tokens)
    assert knows(stage, session)


def test_requests_that_are_none(unmoved: tuple[Stage, dict[str, str]]) -> None:
    stage, session = unmoved
    token = stage.idp.logout_token(sub="ann")
    ask, url = stage.browser.request, stage.url(PATH)
    assert ask(f"{url}?logout_token={token}", "GET").status == 405
    assert ask(f"{url}?logout_token={token}", "POST", {}, {}).status == 400
    body = urlencode([("logout_token", token), ("logout_token", token)])
    for content_type, data in (
        ("application/json", body),
        (FORM["Content-Type"], body),
        (FORM["Content-Type"], "x" * 20_000),
    ):
        assert post(stage, content_type, data) == 400
    assert knows(stage, session)


def post(stage: Stage, content_type: str, body: str) -> int:
    head = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return int(stage.served.request((head + body).encode())[0].split()[1])


def test_a_provider_that_cannot_be_asked_for_keys_may_come_again() -> None:
    idp = FakeIdp()
    idp.answers = {"/jwks": (500, {})}
    with staged(idp=idp) as stage:
        assert tell(stage, sub="ann").status == 503


# --- by the user ----------------------------------------------------------------------------------------------------


def test_a_copy_of_the_cookie_ends_with_the_session(stage: Stage) -> None:
    session, other = log_in(stage, "a"), log_in(stage, "b")
    stage.jar.clear()
    stage.jar.update(session)
    assert stage.browser.request(stage.url("/oauth2/corp/logout")).status == 303
    assert [knows(stage, session), knows(stage, other)] == [False, True]
    assert counted(stage, cells.W_OIDC_LOGOUTS) == 1


# --- over time ------------------------------------------------------------------------------------------------------


def test_a_restart_ends_no_ending(tmp_path: Path) -> None:
    file = tmp_path / "endings.json"
    with staged(file) as stage:
        session, other = log_in(stage, "a"), log_in(stage, "b")
        assert tell(stage, sid="a").status == 200
    assert (file.stat().st_mode & 0o777) == 0o600
    with staged(file) as stage:
        assert [knows(stage, session), knows(stage, other)] == [False, True]


def test_without_an_answer_no_cookie_is_believed_that_may_have_ended() -> None:
    with staged() as stage:
        session = log_in(stage)
        assert knows(stage, session)
        stage.lose_control()
        assert knows(stage, session), "nothing ended since"
        stage.served.board.page.add(H_ENDED, 1)
        stage.jar.update(session)
        assert stage.browser.request(stage.url("/a/x")).status == 503
        stage.jar.clear()
        assert stage.browser.request(stage.url("/free")).status == 200, "who has no cookie does not wait"


def asked(sessions: EndedSessions, epoch: str, number: int) -> Endings:
    async def ask() -> bytes:
        request = Request("POST", "", body=msgspec.json.encode(EndingsSince(epoch, number)), params={"name": "corp"})
        answer: Any = sessions.routes()["/oidc/{name}/ended"]["POST"](request)
        body: bytes = (await answer).body
        return body

    return msgspec.json.decode(asyncio.run(ask()), type=Endings)


def test_workers_learn_what_is_new(tmp_path: Path) -> None:
    calls: list[int] = []
    file = tmp_path / "endings.json"
    first = EndedSessions(file, lambda: calls.append(1), lambda: 1000.0)
    endings_ = [Ending(f"{at:032x}", 1000, 2000, str(at)) for at in range(5000)]

    async def add(sessions: EndedSessions, some: list[Ending]) -> list[bool]:
        return list(await asyncio.gather(*(sessions.add("corp", one) for one in some)))

    assert asyncio.run(add(first, endings_)) == [True] * 5000
    assert asyncio.run(add(first, endings_[:2])) == [False] * 2
    found, number, epoch, more = [], 0, "", True
    while more:
        answer = asked(first, epoch, number)
        found += answer.endings
        epoch, number, more = answer.epoch, answer.number, answer.more
    assert found == endings_
    assert asked(first, epoch, number).endings == []
    second = EndedSessions(file, lambda: None, lambda: 1000.0)
    assert asked(second, epoch, number).endings == endings_[: endings.AT_ONCE], "another process: from the beginning"


def test_what_is_over_anyway_is_forgotten_first_then_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "MOST", 128)
    ledger = Ledger()
    for at in range(128):
        assert ledger.add(Ending(str(at), at, 1000 + at, str(at)), 0)
    assert ledger.add(Ending("new", 128, 2000, "new"), 0)
    assert (len(ledger.rows), ledger.rows[0].who) == (127, "2")
    assert ledger.add(Ending("later", 129, 2000, "later"), 1100)
    assert (len(ledger.rows), ledger.rows[0].who) == (29, "101")
    assert ledger.since(3)[0] == ledger.rows, "who was far behind gets what there is"
    assert ledger.since(130) == ([], 130)


def test_a_list_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "endings.json").write_text("nonsense")
    with capture_logs() as logs:
        EndedSessions(tmp_path / "endings.json", lambda: None)
    assert ["cannot be read" in entry["event"] for entry in logs] == [True]


# --- several gateways -----------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(25):
        while not condition():
            await asyncio.sleep(0.01)


def sharing(**section: Any) -> Any:
    """Two providers, of which one is to be shared."""
    provider = {
        "issuer": "https://idp.test", "client_id": "us", "client_secret": "s" * 32, "session": {"secrets": ["s" * 32]},
    }  # fmt: skip
    return checked({
        "oidc": {"corp": {**provider, "share_endings": True}, "other": provider},
        "routers": [route("/a", "http://127.0.0.1:9")], **section,
    })  # fmt: skip


def test_gateways_tell_each_other(tmp_path: Path) -> None:
    """Also what was ended while Redis was away; and what is not to be shared stays where it is."""
    now = time.time()

    def ending(who: str) -> Ending:
        return Ending(who, time.time(), now + 3600, who)

    with redis_server() as redis:

        async def trace() -> None:
            counts = [0, 0]

            def counting(at: int) -> Callable[[], None]:
                def count() -> None:
                    counts[at] += 1

                return count

            gates = [EndedSessions(tmp_path / f"{at}.json", counting(at)) for at in range(2)]
            for gate in gates:
                gate.apply(sharing(redis={"url": redis.url, "timeout": 2, "retry": 0.1}))

            def known(at: int, name: str = "corp") -> list[str]:
                return [row.who for row in gates[at]._ledger(name).rows]

            await gates[0].add("corp", ending("a"))
            await gates[0].add("other", ending("b"))
            await until(lambda: known(1) == ["a"])
            assert not await gates[1].add("corp", ending("a")), "its token was used elsewhere"
            redis.kill()
            await gates[1].add("corp", ending("c"))
            await asyncio.to_thread(redis.start)
            await until(lambda: known(0) == ["a", "c"])
            assert [known(1), known(0, "other"), known(1, "other")] == [["a", "c"], ["b"], []]
            late = EndedSessions(None, lambda: None)
            late.apply(sharing(redis={"url": redis.url, "timeout": 2}))
            await until(lambda: {row.who for row in late._ledger("corp").rows} >= {"c"})
            settled = list(counts)
            for gate in (*gates, late):
                await gate.close()
            assert counts == settled
            assert "c" in (tmp_path / "0.json").read_text()

        asyncio.run(trace())


def test_sharing_needs_a_redis() -> None:
    with pytest.raises(ConfigError, match=r"oidc\.corp\.share_endings: there is no section redis"):
        sharing()
