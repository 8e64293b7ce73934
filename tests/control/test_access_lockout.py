"""Who guesses passwords waits: on all nodes of a database, and nobody locks out who logged in before."""

import asyncio
import contextlib
import random

import pytest
from sqlalchemy import func, select

from kairos.config.admin import Admin, Lockout
from kairos.control.access import lockout as module
from kairos.control.access.guessing import NONE, Guessing, Key, counted, network_of, taken_back, waits
from kairos.storage import schema
from kairos.storage.database import UnavailableError
from tests.control.access_app import PASSWORD, served

HOUR = 3600.0


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@contextlib.asynccontextmanager
async def node(url, clock, **spec):
    async with served(url, Admin(lockout=Lockout(**{"attempts": 3, "duration": 60.0, **spec}))) as s:
        s.access.logins._clock = clock
        yield s


async def attempt(s, password, name="ann", address="192.0.2.9", client=None):
    client = client or s.client(address=address)
    answer = await client.post("/api/login", json={"name": name, "password": password})
    return answer.status_code


# --- the rule ---


def test_an_address_as_a_trace():
    spec = Lockout(attempts=2, duration=10.0, longest=30.0)
    count, now, waited = NONE, 0.0, []
    for _ in range(6):
        wait = waits(count, spec, now)
        waited.append(wait)
        now += wait
        count = counted("address", count, spec, now)
    assert waited == [0.0, 0.0, 10.0, 20.0, 30.0, 30.0]
    assert counted("address", count, spec, now + 86_401).wrong == 1


def test_a_right_one_takes_back_what_it_was_counted():
    spec = Lockout(attempts=2)
    count = counted("address", counted("address", NONE, spec, 0.0), spec, 1.0)
    assert waits(count, spec, 1.0)
    assert (taken_back("address", count, spec).wrong, taken_back("address", count, spec).until) == (1, 0.0)
    assert taken_back("device", count, spec).wrong == 0


def test_one_address_alone_never_locks_an_account():
    spec = Lockout()
    address = account = NONE
    now = 0.0
    for _ in range(500):
        now += waits(address, spec, now)
        address, account = counted("address", address, spec, now), counted("account", account, spec, now)
        assert not waits(account, spec, now)
    assert account.wrong < spec.account_attempts / 2


def test_another_nodes_clock_locks_nobody_for_longer():
    assert waits(counted("address", NONE, Lockout(attempts=1), 1e9), Lockout(longest=10.0), 0.0) == 10.0


def test_what_is_known_here_is_bounded():
    guessing = Guessing()
    for number in range(10_500):
        guessing.begin([Key("address", str(number))], Lockout(), 0.0)
    assert len(guessing._known) == 10_000


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.9", "192.0.2.9"), ("2001:db8::1", "2001:db8::/64"), ("2001:db8::2:3%eth0", "2001:db8::/64"),
     ("::ffff:192.0.2.9", "192.0.2.9"), ("", "")],
    ids=["v4", "v6", "zone", "mapped", "none"],
)  # fmt: skip
def test_networks(address, network):
    assert network_of(address) == network


# --- on both databases ---


def test_an_address_waits_and_others_do_not(url):
    async def main():
        clock = Clock()
        async with node(url, clock) as s:
            await s.add("ann", "viewer")
            wrong = [await attempt(s, "wrong") for _ in range(4)]
            right, elsewhere = await attempt(s, PASSWORD), await attempt(s, PASSWORD, address="198.51.100.1")
            clock.now += 61
            return wrong, right, elsewhere, await attempt(s, PASSWORD)

    assert asyncio.run(main()) == ([401, 401, 401, 429], 429, 200, 200)


def test_nodes_that_share_a_database_are_no_more_tries(url):
    async def main():
        clock = Clock()
        async with node(url, clock) as one, node(url, clock) as two, node(url, clock) as three:
            await one.add("ann", "viewer")
            tried = [await attempt(s, f"wrong {n}") for n in range(3) for s in (one, two, three)]
            right = [await attempt(s, PASSWORD) for s in (one, two, three)]
            answer = await two.client().post("/api/login", json={"name": "ann", "password": PASSWORD})
            return tried, right, answer.headers["retry-after"]

    assert asyncio.run(main()) == ([401] * 3 + [429] * 6, [429] * 3, "60")


def test_guesses_at_once_at_all_nodes_are_no_more_guesses(url):
    async def main():
        clock = Clock()
        async with node(url, clock) as one, node(url, clock) as two:
            await one.add("ann", "viewer")
            asked = [attempt(s, f"wrong {n}", address=a) for n in range(6) for s in (one, two) for a in ("::1", "::2")]
            random.Random(1).shuffle(asked)
            return sorted(await asyncio.gather(*asked))

    assert asyncio.run(main()) == [401] * 3 + [429] * 21


def test_many_addresses_lock_an_account_but_not_the_browser_of_its_user(url):
    async def main():
        clock = Clock()
        async with node(url, clock, account_attempts=10) as one, node(url, clock, account_attempts=10) as two:
            await one.add("ann", "viewer")
            await one.add("bob", "viewer")
            browser = two.client()
            assert await attempt(two, PASSWORD, client=browser) == 200
            device = browser.cookies["kairos_device"]
            tried = [await attempt(one, "wrong", address=f"198.51.100.{n}") for n in range(12)]
            anew = await attempt(two, PASSWORD, address="203.0.113.7")
            known = one.client(address="203.0.113.8")
            known.cookies["kairos_device"] = device
            others = one.client(address="203.0.113.9")
            others.cookies["kairos_device"] = device
            return tried, anew, [
                await attempt(one, PASSWORD, client=known),
                await attempt(one, PASSWORD, name="bob", client=others),
                await attempt(one, PASSWORD, name="bob", address="203.0.113.9"),
            ]  # fmt: skip

    tried, anew, known = asyncio.run(main())
    assert tried == [401] * 9 + [401] + [429] * 2
    assert anew == 429
    assert known == [200, 200, 200]


def test_a_known_browser_guesses_no_more_than_an_address(url):
    async def main():
        clock = Clock()
        async with node(url, clock) as s:
            await s.add("ann", "viewer")
            browser = s.client()
            assert await attempt(s, PASSWORD, client=browser) == 200
            device = browser.cookies["kairos_device"]
            statuses = []
            for number in range(4):
                thief = s.client(address=f"198.51.100.{number}")
                thief.cookies["kairos_device"] = device
                statuses.append(await attempt(s, "wrong", client=thief))
            stranger = s.client()
            stranger.cookies["kairos_device"] = "x" * 43
            return statuses, await attempt(s, PASSWORD, client=stranger)

    assert asyncio.run(main()) == ([401, 401, 401, 429], 200)


def test_names_that_nobody_has_are_locked_the_same(here):
    async def main():
        clock = Clock()
        async with node(here, clock, account_attempts=4) as s:
            await s.add("ann", "viewer")
            return [
                [await attempt(s, "wrong", name=name, address=f"198.51.{at}.{n}") for n in range(6)]
                for at, name in enumerate(("ann", "nobody"))
            ]

    anns, nobodys = asyncio.run(main())
    assert anns == nobodys == [401] * 4 + [429] * 2


def test_another_password_by_an_administrator_opens_the_account(url):
    async def main():
        clock = Clock()
        async with node(url, clock, account_attempts=4) as one, node(url, clock, account_attempts=4) as two:
            await one.add("ann", "viewer")
            for number in range(5):
                await attempt(one, "wrong", address=f"198.51.100.{number}")
            locked = await attempt(two, PASSWORD)
            reset = await one.client("local").post("/api/users/ann/password", json={"password": "another long one"})
            return locked, reset.status_code, await attempt(two, "another long one")

    assert asyncio.run(main()) == (429, 200, 200)


def test_the_socket_is_never_locked(here):
    async def main():
        async with node(here, Clock(), attempts=1, account_attempts=1) as s:
            await s.add("ann", "viewer")
            local = s.client("local")
            return [await attempt(s, word, client=local) for word in ("wrong", "wrong", PASSWORD)]

    assert asyncio.run(main()) == [401, 401, 200]


def test_while_nothing_can_be_written_guesses_are_counted_here(here):
    async def main():
        async with node(here, Clock()) as s:
            await s.add("ann", "viewer")

            @contextlib.asynccontextmanager
            async def full():
                raise UnavailableError("database or disk is full")
                yield

            s.access.logins._lockouts._database = Only(s.database, full)
            return [await attempt(s, "wrong") for _ in range(5)], await attempt(s, PASSWORD, address="198.51.100.1")

    assert asyncio.run(main()) == ([401, 401, 401, 429, 429], 503)


class Only:
    """A database that can be read."""

    def __init__(self, database, write):
        self.read, self.write, self.shared = database.read, write, database.shared


def test_rows_are_bounded_and_forgotten(url, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 5)
    monkeypatch.setattr(module, "DEVICES", 2)
    monkeypatch.setattr(module, "CLEANED_EVERY_S", 0.0)

    async def kinds(s):
        query = select(schema.guesses.c.kind, func.count()).group_by(schema.guesses.c.kind)
        async with s.database.read() as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def main():
        clock = Clock()
        async with node(url, clock, account_attempts=10_000) as s:
            await s.add("ann", "viewer")
            for number in range(9):
                clock.now += 1
                await attempt(s, "wrong", name=f"name {number}", address=f"198.51.100.{number}")
            many = await kinds(s)
            for _ in range(4):
                clock.now += 1
                await attempt(s, PASSWORD)
            devices = (await kinds(s))["device"]
            clock.now += 25 * HOUR
            await attempt(s, "wrong", name="x")
            later = await kinds(s)
            clock.now += 91 * 24 * HOUR
            await attempt(s, "wrong", name="x")
            async with s.database.read() as connection:
                shown = str((await connection.execute(select(schema.guesses))).all())
            assert "name" not in shown
            assert "198.51" not in shown
            return many, devices, later, await kinds(s)

    many, devices, later, last = asyncio.run(main())
    assert (many["address"], many["account"], devices) == (5, 9, 2)
    assert later == {"address": 1, "account": 1, "device": 2}
    assert last == {"address": 1, "account": 1}


def test_the_cookie_of_a_known_browser(here):
    async def main():
        async with node(here, Clock()) as s:
            await s.add("ann", "viewer")
            client = s.client(base="https://127.0.0.1:5901")
            answer = await client.post("/api/login", json={"name": "ann", "password": PASSWORD})
            return [one for one in answer.headers.get_list("set-cookie") if "device" in one]

    (cookie,) = asyncio.run(main())
    assert cookie.startswith("__Host-kairos_device=")
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        "HttpOnly", "Path=/", "SameSite=strict", "Max-Age=7776000", "Secure",
    }  # fmt: skip
