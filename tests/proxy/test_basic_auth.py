"""Names and passwords: who gets in, what checking costs at most, and that a name tells nothing of whether it exists."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from kairos.config.mask import masked
from kairos.config.problems import ConfigError
from kairos.config.secrets import password_hash
from kairos.proxy.filters.authn import passwords
from kairos.proxy.filters.authn.basic import credentials
from kairos.proxy.filters.authn.passwords import BusyError, Passwords
from tests.support.gateway import route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import echo, origin, status_of
from tests.support.ws import header

WEAK = {"memory_kib": 8, "passes": 1}
"""Enough for tests."""
SALTED = PasswordHasher(memory_cost=8, time_cost=1, parallelism=1).hash("secret", salt=b"one for all runs")
"""Names tests, so every process has to have the same."""
ANN = {"name": "ann", "password_hash": SALTED}
BOB = {"name": "Björn", "password_hash": password_hash("pass:wörd ", **WEAK), "claims": {"role": "admin"}}


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


def document(url: str, auth: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return {
        "auth": {"methods": ["basic"], **(auth or {})},
        "basic_auth": {"users": [ANN, BOB], **settings},
        "routers": [route("/", url)],
    }


def basic(name: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def ask(served: InProcess, *lines: str) -> tuple[int, bytes, bytes]:
    head, body = served.get("/", *lines)
    return status_of(head), head, body


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stored hashes that were checked."""
    checked_: list[str] = []
    verify = passwords.verify

    def count(password: str, stored: str) -> bool:
        checked_.append(stored)
        return verify(password, stored)

    monkeypatch.setattr(passwords, "verify", count)
    return checked_


# --- who gets in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "password", "status"),
    [
        ("ann", "secret", 200),
        ("Björn", "pass:wörd ", 200),
        ("Bjo\u0308rn", "pass:wo\u0308rd ", 200),  # the same letters, written in two characters each
        ("ann", "Secret", 401),
        ("ann", "", 401),
        ("ann", "secret ", 401),
        ("Ann", "secret", 401),
        ("ann", "pass:wörd ", 401),
        ("carol", "secret", 401),
        ("", "secret", 401),
        ("ann", "x" * 2000, 401),
        ("ann", ANN["password_hash"], 401),
    ],
)
def test_who_gets_in(backend: str, name: str, password: str, status: int) -> None:
    with serving(document(backend)) as served:
        assert [ask(served, basic(name, password))[0] for _ in range(3)] == [status] * 3


def test_the_challenge(backend: str) -> None:
    with serving(document(backend, realm="the back office")) as served:
        for lines in ((), (basic("ann", "wrong"),), ("Authorization: Digest x",)):
            status, head, _ = ask(served, *lines)
            assert status == 401
            assert header(head, b"www-authenticate") == b'Basic realm="the back office", charset="UTF-8"'


@pytest.mark.parametrize(
    "line", ["Basic", "Basic ", "Basic x", "Basic ====", "Basic YW5u", "Basic YW4=\x80", "basic /w==", "BASIC AAA6AAA="]
)
def test_what_is_no_credential(backend: str, line: str) -> None:
    with serving(document(backend)) as served:
        head, body = served.request(f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {line}\r\n\r\n".encode("latin-1"))
        assert status_of(head) == 401
        assert json.loads(body)["code"] == "unauthorized"


def test_what_credentials_are() -> None:
    encode = base64.b64encode
    assert credentials(encode(b"a:b:c")) == ("a", "b:c")
    assert credentials(encode(b":")) == ("", "")
    assert credentials(encode("ü:ß".encode())) == ("ü", "ß")
    for text in (b"a", b"a:\x00", b"a\n:b", b"\xff:x", b"a:" + b"x" * 1025):
        assert credentials(encode(text)) is None


def test_the_backend_is_told_who_it_is_and_no_password_if_so_wanted(backend: str) -> None:
    auth = {"claims_to_headers": {"sub": "X-User", "role": "X-Role"}, "forward_credentials": False}
    with serving(document(backend, auth)) as served:
        seen = ask(served, basic("Björn", "pass:wörd "), "X-User: root", "X-Role: root")[2]
        assert header(seen, b"x-role") == b"admin"
        assert json.loads(header(seen, b"x-user") or b"") == "Björn"
        assert b"authorization" not in seen.lower()
        seen = ask(served, basic("ann", "secret"), "X-Role: root")[2]
        assert (header(seen, b"x-user"), header(seen, b"x-role")) == (b"ann", None)


def test_users_of_a_file_are_read_again_at_a_reload(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"# staff\n\ncarol:{password_hash('one', **WEAK)}\n")
    config = document(backend, users_file=str(file))
    with serving(config) as served:
        assert [ask(served, basic(*pair))[0] for pair in (("carol", "one"), ("ann", "secret"))] == [200, 200]
        file.write_text(f"carol:{password_hash('another', **WEAK)}\n")
        served.configure(config)
        assert [ask(served, basic("carol", word))[0] for word in ("one", "another")] == [401, 200]


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_a_password_is_checked_once(backend: str, counted: list[str]) -> None:
    with serving(document(backend)) as served:
        assert [ask(served, basic("ann", "secret"))[0] for _ in range(5)] == [200] * 5
        assert len(counted) == 1
        assert [ask(served, basic("ann", "wrong"))[0] for _ in range(5)] == [401] * 5
        assert len(counted) == 2
        served.configure(document(backend, realm="x"))
        assert ask(served, basic("ann", "secret"))[0] == 200
        assert len(counted) == 2


def test_or_each_time(backend: str, counted: list[str]) -> None:
    with serving(document(backend, cache_time=0)) as served:
        assert [ask(served, basic("ann", "secret"))[0] for _ in range(3)] == [200] * 3
        assert len(counted) == 3


def test_a_changed_password_is_not_the_one_remembered(backend: str) -> None:
    with serving(document(backend)) as served:
        assert ask(served, basic("ann", "secret"))[0] == 200
        changed = {**ANN, "password_hash": password_hash("other", **WEAK)}
        served.configure(document(backend, users=[changed]))
        assert ask(served, basic("ann", "secret"))[0] == 401


def test_a_name_that_nobody_has_costs_a_check_like_any_other(backend: str, counted: list[str]) -> None:
    """Against a stored hash, always the same one for the same name; the right password of its owner does not help."""
    with serving(document(backend, cache_time=0)) as served:
        for word in ("secret", "pass:wörd ", "x"):
            assert ask(served, basic("nobody", word))[0] == 401
        assert len(counted) == 3
        assert len(set(counted)) == 1
        assert counted[0] in (ANN["password_hash"], BOB["password_hash"])
        before = len(counted)
        assert [ask(served, basic(f"nobody {n}", "x"))[0] for n in range(30)] == [401] * 30
        assert set(counted[before:]) == {ANN["password_hash"], BOB["password_hash"]}


def run(work: Callable[[], Any]) -> Any:
    return asyncio.run(work())


class Slow:
    """A check that waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[str] = []
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, password: str, stored: str) -> bool:
        with self._lock:
            self.calls.append(password)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        assert self.go.wait(25)
        with self._lock:
            self.at_once -= 1
        return password == stored


def test_no_more_than_so_many_run_and_wait() -> None:
    slow = Slow()

    async def work() -> list[Any]:
        made = Passwords(2, 3, slow)
        tasks = [asyncio.create_task(made.check(b"%d" % n, f"{n}", "1", 60)) for n in range(8)]
        while sum(task.done() for task in tasks) < 3:
            await asyncio.sleep(0.001)
        slow.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = run(work)
    assert outcomes[:5] == [False, True, False, False, False]
    assert [type(outcome) for outcome in outcomes[5:]] == [BusyError] * 3
    assert slow.most == 2


def test_the_same_question_is_asked_once() -> None:
    slow = Slow()

    async def work() -> list[bool]:
        made = Passwords(1, 0, slow)
        tasks = [asyncio.create_task(made.check(b"m", "x", "x", 60)) for _ in range(50)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # who asked first may leave
        slow.go.set()
        outcomes = [await task for task in tasks[1:]]
        assert made.known(b"m") is True
        return outcomes

    assert run(work) == [True] * 49
    assert slow.calls == ["x"]


def test_what_is_remembered_is_bounded_and_ends() -> None:
    now = [1000.0]
    made = Passwords(1, 9, lambda password, stored: password == stored, remembered=2, clock=lambda: now[0])

    async def work() -> None:
        for word in ("a", "b", "c", "d"):
            await made.check(word.encode(), word, "a", 60)
        assert [made.known(mark) for mark in (b"a", b"b", b"c", b"d")] == [True, None, False, False]
        now[0] += 6
        assert [made.known(mark) for mark in (b"a", b"c", b"d")] == [True, None, None]
        now[0] += 60
        assert made.known(b"a") is None

    run(work)


def test_marks_tell_parts_apart() -> None:
    made = Passwords(1, 1)
    parts = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("", "ab", "c"), ("a", "b\0", "c")]
    assert len({made.mark(*three) for three in parts}) == len(parts)
    assert made.mark("a", "b", "c") != Passwords(1, 1).mark("a", "b", "c")


def test_a_flood_is_turned_away(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(passwords, "verify", slow)
    with serving(document(backend, concurrency=1, queue=1)) as served:
        waiting = [served.connect() for _ in range(2)]
        for n, peer in enumerate(waiting):
            peer.send(f"GET / HTTP/1.1\r\nHost: a\r\n{basic('ann', f'{n}')}\r\n\r\n".encode())
        checks: Passwords = served.origins.keep(("passwords", 1, 1), dict)
        served.wait(lambda: checks.under_way == 2, "checks")
        status, head, body = ask(served, basic("ann", "most"))
        assert (status, json.loads(body)["code"], header(head, b"retry-after")) == (503, "auth_busy", b"1")
        slow.go.set()
        assert [status_of(peer.receive_response()[0]) for peer in waiting] == [401, 401]
        for peer in waiting:
            peer.close()


def test_a_client_that_leaves_breaks_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(passwords, "verify", slow)
    with serving(document(backend)) as served:
        with served.connect() as peer:
            peer.send(f"GET / HTTP/1.1\r\nHost: a\r\n{basic('ann', 'x')}\r\n\r\n".encode())
            served.wait(lambda: len(slow.calls) == 1, "check")
            peer.reset()
        served.wait(lambda: not served.runtime.clients, "end of the connection")
        slow.go.set()
        assert ask(served, basic("ann", "y"))[0] == 401
        assert served.reports == []


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": []}, "basic_auth: has no users"),
        ({"users": [ANN, ANN]}, r"basic_auth\.users\[1\]\.name: 'ann' is there twice"),
        ({"users": [{"name": "a:b", "password_hash": "x"}]}, r"basic_auth\.users\[0\]\.name"),
        (
            {"users": [{"name": "a", "password_hash": "secret"}]},
            "is no Argon2 hash: make one with kairos keys",
        ),
        ({"users": [{"name": "a", "password_hash": "$apr1$x$y"}]}, "is no Argon2 hash"),
        ({"users": [{"name": "a", "password_hash": "$argon2id$v=19$m=1,t=1$x"}]}, "is no Argon2 hash"),
        ({"realm": 'a"b'}, r"basic_auth\.realm"),
        ({"concurrency": 0}, r"basic_auth\.concurrency"),
        ({"users_file": "/none"}, r"users_file: cannot read users from /none: No such file"),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(document("http://127.0.0.1:1", **settings))


@pytest.mark.parametrize("line", ["carol", ":x", "carol:x", f"ann:{ANN['password_hash']}", "\xff"])
def test_mistakes_of_a_file_are_told(tmp_path: Path, line: str) -> None:
    tmp_path.joinpath("users").write_bytes(line.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"basic_auth\.users_file: "):
        checked(document("http://127.0.0.1:1", users_file=str(tmp_path / "users")))


def test_a_hash_that_eats_memory_is_told() -> None:
    greedy = ANN["password_hash"].replace("m=8,", "m=1048576,")
    with pytest.raises(ConfigError, match="asks for 1048576 KiB at each check"):
        checked(document("http://127.0.0.1:1", users=[{"name": "a", "password_hash": greedy}]))


def test_hashes_are_not_shown() -> None:
    assert "argon2" not in json.dumps(masked(checked(document("http://127.0.0.1:1"))))
