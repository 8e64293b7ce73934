"""What the control process does once for all workers: documents, codes and refreshes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pytest
import uvloop

from kairos.config.discovery import CodeGrant, Granted, RefreshGrant
from kairos.config.oidc import OidcProvider, OidcSession
from kairos.control.client import NoAnswerError
from kairos.control.oidc import FRESH, KEYS_PAUSE, PAUSE, REMEMBERED, Provider
from kairos.resolver import Resolver
from tests.oidc.fake_idp import CLIENT_SECRET, FakeIdp

T = TypeVar("T")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def idp() -> Iterator[FakeIdp]:
    made = FakeIdp()
    yield made
    made.close()


def run(idp: FakeIdp, work: Callable[[Provider, Clock], Awaitable[T]], **keys: Any) -> T:
    """What comes of some work with a provider, in virtual time."""

    async def act() -> T:
        resolver, clock = Resolver(), Clock()
        session = OidcSession(secrets=["s" * 32])
        given = {"issuer": idp.issuer, "client_id": "us", "client_secret": CLIENT_SECRET, "session": session, **keys}
        try:
            return await work(Provider("corp", OidcProvider(**given), resolver, clock), clock)
        finally:
            await resolver.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(act())


def refresh(token: str) -> bytes:
    return msgspec.json.encode(RefreshGrant(token))


def test_documents_are_fetched_once_and_again_after_their_time(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> None:
        known = await asyncio.gather(*(provider.known() for _ in range(5)))
        assert {one.metadata.token_endpoint for one in known} == {f"{idp.issuer}/token"}
        assert idp.times_asked("/jwks") == 1
        clock.now += FRESH - 1
        await provider.known()
        assert idp.times_asked("/jwks") == 1
        clock.now += 2
        await provider.known()
        assert idp.times_asked("/jwks") == 2

    run(idp, work)


def test_an_unknown_key_has_them_fetched_but_not_each_time(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> None:
        await provider.known()
        idp.kid = "two"
        assert '"one"' in (await provider.fresh_keys()).keys
        clock.now += KEYS_PAUSE
        assert '"two"' in (await provider.fresh_keys()).keys
        assert '"two"' in (await provider.fresh_keys()).keys
        assert idp.times_asked("/jwks") == 2

    run(idp, work)


def test_what_was_known_stays_good_while_the_provider_is_silent(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> None:
        first = await provider.known()
        idp.answers["/jwks"] = (500, b"")
        clock.now += FRESH + 1
        assert await provider.known() == first
        assert await provider.known() == first
        assert idp.times_asked("/jwks") == 2  # and it is given time

    run(idp, work)


def test_a_provider_that_never_answered_is_asked_again_after_a_pause(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> None:
        idp.answers["/jwks"] = (500, b"")
        for _ in range(3):
            with pytest.raises(NoAnswerError, match="answers 500"):
                await provider.known()
        assert idp.times_asked("/jwks") == 1
        del idp.answers["/jwks"]
        clock.now += PAUSE
        assert (await provider.known()).metadata.issuer == idp.issuer

    run(idp, work)


def test_refreshes_of_one_token_are_one_request(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> None:
        idp.tokens = {"refresh_token": "r2"}
        side_by_side = await asyncio.gather(*(provider.refresh(refresh("r1")) for _ in range(5)))
        late = await provider.refresh(refresh("r1"))
        assert {granted.refresh_token for granted in [*side_by_side, late]} == {"r2"}
        assert idp.times_asked("/token") == 1
        await provider.refresh(refresh("r2"))
        assert idp.times_asked("/token") == 2
        clock.now += REMEMBERED
        await provider.refresh(refresh("r1"))
        assert idp.times_asked("/token") == 3

    run(idp, work)


def test_a_refresh_nobody_answered_is_tried_again_one_refused_is_not(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> None:
        idp.answers["/token"] = (502, b"")
        assert (await provider.refresh(refresh("r1"))).error == "unavailable"
        idp.answers["/token"] = (400, {"error": "invalid_grant"})
        assert (await provider.refresh(refresh("r1"))).error == "invalid_grant"
        assert (await provider.refresh(refresh("r1"))).error == "invalid_grant"
        assert idp.times_asked("/token") == 2

    run(idp, work)


def test_a_state_is_good_for_one_exchange(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> list[Granted]:
        grant = msgspec.json.encode(CodeGrant("c", "v", "http://us/cb", "state"))
        return [await provider.exchange(grant), await provider.exchange(grant)]

    first, second = run(idp, work)
    assert (first.error, first.access_token, second.error) == (None, "at", "replayed")
    assert idp.asked[-1] == (
        "/token",
        {"grant_type": "authorization_code", "code": "c", "redirect_uri": "http://us/cb", "code_verifier": "v"},
    )
    assert any("Authorization: Basic " in head for head in idp.heads)


def test_secrets_in_the_body_and_public_clients(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> Granted:
        return await provider.refresh(refresh("r"))

    run(idp, work, token_auth="client_secret_post")
    assert idp.asked[-1][1]["client_secret"] == CLIENT_SECRET
    run(idp, work, client_secret=None)
    assert idp.asked[-1][1] == {"grant_type": "refresh_token", "refresh_token": "r", "client_id": "us"}
    assert not any("Authorization" in head for head in idp.heads)


def test_userinfo_and_revocation(idp: FakeIdp) -> None:
    async def work(provider: Provider, clock: Clock) -> Granted:
        granted = await provider.refresh(refresh("r"))
        await provider.revoke(refresh("r"))
        return granted

    assert run(idp, work, userinfo=True).userinfo == {"sub": "ann", "email": "ann@test"}
    assert any("GET /me" in head and "Authorization: Bearer at" in head for head in idp.heads)
    assert idp.asked[-1] == ("/revocation", {"token": "r", "token_type_hint": "refresh_token"})
