"""The control process's key sets: when they are fetched, what is believed of an answer, what is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kairos._speedups import cells
from kairos.config.model import Config
from kairos.control.http import Request, Response
from kairos.control.keysets import KeySets, sources
from kairos.scoreboard import Scoreboard
from tests.support.jwks import KeyServer, key_server
from tests.support.tokens import OTHER_RSA, RSA, jwk

HOUR = 3600


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyServer]:
    with key_server(tmp_path, jwk(RSA, kid="a")) as made:
        yield made


def config(keys: KeyServer, **members: Any) -> Config:
    section = {"jwks_url": keys.url, "jwks_ca_file": str(keys.ca_file), "jwks_refresh": HOUR, "jwks_min_interval": HOUR}
    return msgspec.convert({"jwt": section | members, "routers": []}, Config)


class Stage:
    """KeySets with the questions of workers."""

    def __init__(self, folder: Path | None = None) -> None:
        self.board = Scoreboard.create(workers=1, routes=1, pairs=1, upstreams=1)
        self.sets = KeySets(self.board, folder)

    @property
    def generation(self) -> int:
        return self.board.page.get(cells.H_KEYS)

    async def ask(self, url: str, kid: str | None = None) -> Response:
        body = json.dumps({"url": url, "kid": kid}).encode()
        return await self.sets.answer(Request("POST", "/keys", body=body))

    async def kids(self, url: str, kid: str | None = None) -> list[str]:
        answer = await self.ask(url, kid)
        assert answer.status == 200
        return [one["kid"] for one in json.loads(answer.body)["keys"]]


def play(trace: Callable[[Stage], Coroutine[Any, Any, None]], folder: Path | None = None) -> None:
    """Run a trace, and end what it began."""

    async def run() -> None:
        stage = Stage(folder)
        try:
            await trace(stage)
        finally:
            await stage.sets.close()

    asyncio.run(run())


def test_a_set_is_fetched_once_for_all_who_ask(keys: KeyServer) -> None:
    async def trace(stage: Stage) -> None:
        stage.sets.apply(config(keys))
        found = await asyncio.gather(*[stage.kids(keys.url) for _ in range(20)])
        assert found == [["a"]] * 20
        assert keys.asked == 1
        assert stage.generation == 1

    play(trace)


def test_an_unknown_kid_has_it_fetched_again_but_not_at_once(keys: KeyServer) -> None:
    async def trace(stage: Stage) -> None:
        stage.sets.apply(config(keys))
        assert await stage.kids(keys.url) == ["a"]
        keys.keys = [jwk(OTHER_RSA, kid="b")]
        assert await stage.kids(keys.url, "a") == ["a"], "it is known"
        assert await stage.kids(keys.url, "b") == ["a"], "there was a fetch within jwks_min_interval"
        assert keys.asked == 1
        stage.sets.apply(config(keys, jwks_min_interval=0.05))
        await stage.kids(keys.url)
        await asyncio.sleep(0.06)
        assert await asyncio.gather(*[stage.kids(keys.url, "c") for _ in range(5)]) == [["b"]] * 5
        assert stage.generation >= 2

    play(trace)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b""), (200, b"<html>"), (200, b'{"keys": []}'), (200, b'{"keys": [], "keys": []}'), (500, b"{}"),
        (301, b""), (404, b""), (200, b"[" * 100_000), (200, b" " * (1 << 19)),
        (200, b'{"keys": [{"kty": "oct", "k": "AA"}]}'),
    ],
    ids=range(10),
)  # fmt: skip
def test_an_answer_that_is_no_set_changes_nothing(keys: KeyServer, answer: tuple[int, bytes]) -> None:
    async def trace(stage: Stage) -> None:
        stage.sets.apply(config(keys, jwks_min_interval=0.05))
        assert await stage.kids(keys.url) == ["a"]
        keys.answer = answer
        await asyncio.sleep(0.06)
        assert await stage.kids(keys.url, "b") == ["a"]
        assert keys.asked == 2
        assert stage.generation == 1, "no worker asks for what did not change"

    play(trace)


def test_it_is_fetched_every_now_and_then(keys: KeyServer) -> None:
    async def trace(stage: Stage) -> None:
        stage.sets.apply(config(keys, jwks_refresh=1))
        assert await stage.kids(keys.url) == ["a"]
        keys.keys = [jwk(OTHER_RSA, kid="b")]
        async with asyncio.timeout(25):
            while stage.generation < 2:
                await asyncio.sleep(0.01)
        assert await stage.kids(keys.url) == ["b"]

    play(trace)


def test_only_what_the_configuration_names_is_fetched(keys: KeyServer) -> None:
    async def trace(stage: Stage) -> None:
        stage.sets.apply(config(keys))
        assert (await stage.ask("https://elsewhere.example/")).status == 404
        assert (await stage.sets.answer(Request("POST", "/keys", body=b"{"))).status == 400
        assert (await stage.sets.answer(Request("POST", "/keys", body=b"\xff"))).status == 400
        stage.sets.apply(msgspec.convert({"routers": []}, Config))
        assert (await stage.ask(keys.url)).status == 404

    play(trace)


def test_a_set_of_a_configuration_to_come_is_there_before_it(keys: KeyServer) -> None:
    async def trace(stage: Stage) -> None:
        stage.sets.prepare(config(keys))
        assert await stage.kids(keys.url) == ["a"]
        stage.sets.apply(config(keys))
        assert await stage.kids(keys.url) == ["a"]
        assert keys.asked == 1

    play(trace)


def test_the_last_good_set_is_found_by_the_next_process(keys: KeyServer, tmp_path: Path) -> None:
    async def first(stage: Stage) -> None:
        stage.sets.apply(config(keys))
        assert await stage.kids(keys.url) == ["a"]

    async def second(stage: Stage) -> None:
        keys.answer = (500, b"")
        stage.sets.apply(config(keys))
        assert await stage.kids(keys.url) == ["a"]
        assert stage.generation == 1, "workers that have older ones are to ask"

    play(first, tmp_path)
    (file,) = tmp_path.glob("jwks-*.json")
    assert file.stat().st_mode & 0o777 == 0o600
    play(second, tmp_path)
    for damaged in (b"", b"{}", b'{"keys": [', b"\0" * 100):
        file.write_bytes(damaged)

        async def third(stage: Stage) -> None:
            stage.sets.apply(config(keys))
            assert (await stage.ask(keys.url)).status == 503

        play(third, tmp_path)


def test_a_gateway_that_was_replaced_writes_no_file(keys: KeyServer, tmp_path: Path) -> None:
    async def trace(stage: Stage) -> None:
        stage.sets.apply(config(keys, jwks_min_interval=0.05))
        assert await stage.kids(keys.url) == ["a"]
        (file,) = tmp_path.glob("jwks-*.json")
        kept = file.read_bytes()
        stage.sets.step_down()
        keys.keys = [jwk(OTHER_RSA, kid="b")]
        await asyncio.sleep(0.06)
        assert await stage.kids(keys.url, "b") == ["b"], "its last workers are answered"
        assert file.read_bytes() == kept

    play(trace, tmp_path)


def test_a_server_of_another_authority_is_not_believed(keys: KeyServer, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with key_server(folder, jwk(RSA, kid="a")) as other:

        async def trace(stage: Stage) -> None:
            stage.sets.apply(config(keys, jwks_url=other.url))
            assert (await stage.ask(other.url)).status == 503
            assert other.asked == 0

        play(trace)


def test_each_provider_has_its_set(keys: KeyServer) -> None:
    providers = [{"issuer": f"https://{name}", "jwks_url": f"https://{name}/keys"} for name in "ab"]
    providers.append({"issuer": "https://c", "secret": "s" * 32})
    made = msgspec.convert({"jwt": {"providers": providers}, "routers": []}, Config)
    assert {source.url for source in sources(made)} == {"https://a/keys", "https://b/keys"}
    assert sources(msgspec.convert({"routers": []}, Config)) == set()
