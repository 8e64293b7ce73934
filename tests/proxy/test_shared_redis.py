"""Limits that nodes share, and cached responses, in the kinds of Redis that people run: with passwords, over TLS, under
Sentinels, in a cluster. Real servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kairos._speedups import cells
from kairos.config.redis import Redis
from kairos.proxy.filters.lease_script import KINDS
from kairos.rediscache import Put, RedisCache
from tests.proxy.test_leases import HOUR, ask, cell, granted, two_nodes
from tests.support.gateway import route
from tests.support.inprocess import InProcess, serving
from tests.support.net import dead_port, echo, origin
from tests.support.redis import RedisServer, Sentinel, cluster_replica, redis_cluster, redis_server, until
from tests.support.tls import Authority

Plain = dict[str, Any]
RIGHTS = re.search(r"^ACL SETUSER (kairos on) >… (~.*)$", Path("docs/rate-limits.md").read_text(), re.M)


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


def document(backend: str, section: Plain, requests: int = 20, **more: Any) -> Plain:
    limit = {"requests_per_window": requests, "window_duration": HOUR, "enable_redis": True, **more}
    return {
        "routers": [route("/a", backend)],
        "rate_limit": {"redis_failure": "fail_closed", **limit},
        "trusted_proxies": ["127.0.0.1"],
        "redis": {"timeout": 5, "retry": 0.1, **section},
    }


def again(node: InProcess) -> None:
    """Until it answers again."""
    node.wait(lambda: cell(node, cells.W_LEASE_DOWN) == 0, "sign of life")


# --- passwords -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["lease", "strict"])
def test_a_user_that_may_do_no_more_than_it_needs(backend: str, tmp_path: Path, mode: str) -> None:
    """The one that the page on rate limits shows."""
    assert RIGHTS is not None
    (tmp_path / "users.acl").write_text(f"user default off\nuser {RIGHTS[1]} >secret {RIGHTS[2]}\n")
    with redis_server("--aclfile", str(tmp_path / "users.acl")) as server:
        login = {"username": "kairos", "password": "secret"}
        for window_type in KINDS:
            config = document(backend, {"url": server.url, **login}, redis_mode=mode, window_type=window_type)
            with two_nodes(config) as nodes:
                assert granted(nodes, 30) == 20


def test_a_password_in_the_address_and_a_wrong_one(backend: str) -> None:
    with redis_server("--requirepass", "p w") as server:
        with serving(document(backend, {"url": f"redis://:p%20w@127.0.0.1:{server.port}"})) as node:
            assert granted([node], 30) == 20
        with serving(document(backend, {"url": server.url, "password": "q"})) as node:
            assert [ask(node) for _ in range(3)] == [503] * 3


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("redis-tls"))


@contextlib.contextmanager
def tls_server(authority: Authority, *options: str) -> Iterator[RedisServer]:
    """A RedisServer that is reached over TLS alone."""
    file = authority.file("127.0.0.1")
    context = ssl.create_default_context(cafile=authority.ca_file)
    context.load_cert_chain(authority.client_file)
    files = ["--tls-cert-file", file, "--tls-key-file", file, "--tls-ca-cert-file", authority.ca_file]
    with redis_server(*files, *options, tls=context) as server:
        yield server


def test_over_tls_both_sides_show_certificates(backend: str, authority: Authority) -> None:
    ours = {"cert_file": authority.client_file, "key_file": authority.client_file}
    with tls_server(authority) as server:
        section = {"url": server.url, "ca_file": authority.ca_file}
        with two_nodes(document(backend, section | ours)) as nodes:
            assert granted(nodes, 30) == 20
        for lacking in (section, {"url": server.url, **ours}):
            with serving(document(backend, lacking)) as node:
                assert [ask(node) for _ in range(3)] == [503] * 3


def test_a_certificate_of_another_name_is_not_believed(backend: str, authority: Authority) -> None:
    with tls_server(authority, "--tls-auth-clients", "no") as server:
        section = {"url": f"rediss://localhost:{server.port}", "ca_file": authority.ca_file}
        for more, status in (({}, 503), ({"verify": False}, 200)):
            with serving(document(backend, {**section, **more})) as node:
                assert ask(node) == status


# --- Sentinels -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def watched(*settings: str, password: str | None = None) -> Iterator[tuple[list[RedisServer], Sentinel]]:
    """A master, its replica, and who makes the one the other."""
    login = ["--requirepass", password, "--masterauth", password] if password is not None else []
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(redis_server(*login, "--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(redis_server(*login, "--replicaof", "127.0.0.1", str(master.port)))
        auth = [f"sentinel auth-pass mymaster {password}"] if password is not None else []
        sentinel = Sentinel(master, *auth, *settings)
        stack.callback(sentinel.stop)
        yield [master, replica], sentinel


def test_after_a_failover_the_new_master_counts_on(backend: str) -> None:
    with watched() as ((master, replica), sentinel):
        sentinel.hurry()
        until(sentinel.knows_a_replica, "replica that the Sentinel knows")
        section = {"url": "redis://nobody.invalid", "sentinels": [f"127.0.0.1:{_closed()}", sentinel.address]}
        with serving(document(backend, section, redis_mode="strict")) as node:
            assert granted([node], 12) == 12
            with contextlib.closing(master.client()) as client:
                client.wait(1, 5000)
            master.kill()
            until(lambda: sentinel.master() == replica.port, "new master")
            node.wait(lambda: ask(node, "192.0.2.250") == 200, "answer of the new master")
            assert granted([node], 12) == 8


def test_a_master_that_became_a_replica_is_left(backend: str) -> None:
    """Connections stay open, and every question is answered: with READONLY."""
    with watched() as ((_, replica), sentinel):
        sentinel.hurry()
        until(sentinel.knows_a_replica, "replica that the Sentinel knows")
        section = {"url": "redis://nobody.invalid", "sentinels": [sentinel.address]}
        with serving(document(backend, section, redis_mode="strict")) as node:
            assert granted([node], 12) == 12
            with contextlib.closing(sentinel.client()) as client:
                client.execute_command("SENTINEL FAILOVER", "mymaster")
            until(lambda: sentinel.master() == replica.port, "new master")
            node.wait(lambda: ask(node, "192.0.2.250") == 200, "answer of the new master")
            with contextlib.closing(replica.client()) as client:
                until(lambda: client.info("replication")["role"] == "master", "promotion")
            again(node)
            assert granted([node], 12) == 8


def test_sentinels_and_servers_have_passwords_of_their_own(backend: str) -> None:
    with watched("requirepass watch", password="data") as (_, sentinel):
        section = {"url": "redis://nobody.invalid/3", "password": "data", "sentinels": [sentinel.address]}
        with two_nodes(document(backend, {**section, "sentinel_password": "watch"})) as nodes:
            assert granted(nodes, 30) == 20
        with serving(document(backend, section)) as node:
            assert ask(node) == 503


def _closed() -> int:
    """A port where nobody listens."""
    return dead_port()


# --- a cluster -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    with redis_cluster() as servers:
        yield servers


@pytest.fixture
def members(cluster: list[RedisServer]) -> list[RedisServer]:
    """Empty ones."""
    for server in cluster:
        with contextlib.closing(server.client()) as client:
            client.flushall()
    return cluster


def in_cluster(backend: str, members: list[RedisServer], requests: int = 20, **more: Any) -> Plain:
    return document(backend, {"url": members[0].url, "cluster": True}, requests, **more)


def keys_of(members: list[RedisServer]) -> list[list[str]]:
    """What lies in each."""
    found = []
    for server in members:
        with contextlib.closing(server.client()) as client:
            found.append(sorted(client.keys()))
    return found


@pytest.mark.parametrize("window_type", list(KINDS))
@pytest.mark.parametrize("mode", ["lease", "strict"])
def test_a_cluster_keeps_the_limit_of_many(
    backend: str, members: list[RedisServer], window_type: str, mode: str
) -> None:
    with two_nodes(in_cluster(backend, members, 8, window_type=window_type, redis_mode=mode)) as nodes:
        for at in range(8):
            assert granted(nodes, 11, f"192.0.2.{at}") == 8
        assert all(keys_of(members)), "every node has some of it"


def test_limits_on_somebody_lie_together(backend: str, members: list[RedisServer]) -> None:
    def part(requests: int, **more: Any) -> Plain:
        return {"requests_per_window": requests, "window_duration": HOUR, "enable_redis": True, **more}

    parts = [part(9, redis_mode="strict"), part(4, redis_mode="strict", window_type="FixedWindow"),
             part(6, strategy="PerRoute", redis_mode="strict")]  # fmt: skip
    config = in_cluster(backend, members) | {"rate_limit": {"strategy": "Composite", "limits": parts}}
    with two_nodes(config) as nodes:
        assert granted(nodes, 10) == 4
        own = [[key for key in keys if "{" in key] for keys in keys_of(members)]
        assert sorted(map(len, own)) == [0, 0, 2]
        assert granted(nodes, 10, "192.0.2.2") == 2


def test_a_slot_that_moves_keeps_its_counts(backend: str, members: list[RedisServer]) -> None:
    with two_nodes(in_cluster(backend, members, redis_mode="strict")) as nodes:
        assert granted(nodes, 12) == 12
        ((old, key),) = [(at, keys[0]) for at, keys in enumerate(keys_of(members)) if keys]
        move(key, members[old], members[(old + 1) % 3], members)
        assert granted(nodes, 12) == 8
        assert [cell(node, cells.W_LEASE_FAILURES) for node in nodes] == [0, 0]


def move(key: str, old: RedisServer, new: RedisServer, members: list[RedisServer]) -> None:
    """A slot with its one key from a node to another."""
    with contextlib.ExitStack() as stack:
        clients = {server: stack.enter_context(contextlib.closing(server.client())) for server in members}
        slot = clients[old].execute_command("CLUSTER KEYSLOT", key)
        ids = {server: client.execute_command("CLUSTER MYID") for server, client in clients.items()}
        clients[new].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[old])
        clients[old].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[new])
        clients[old].migrate("127.0.0.1", new.port, key, 0, 5000)
        for client in (clients[new], *clients.values()):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[new])


def test_a_node_dies_and_comes_back(backend: str) -> None:
    """Meanwhile the rule says what happens. The cluster is learnt from another node than the one in the url."""
    with redis_cluster() as members:
        config = in_cluster(backend, members, 5)
        config["redis"]["cluster_nodes"] = [server.address for server in members[1:]]
        with serving(config) as node:
            assert granted([node], 8) == 5
            members[0].kill()
            node.wait(lambda: some(node, "192.0.2", 503), "refusal")
            assert [ask(node, f"198.51.100.{at}") for at in range(5)] == [503] * 5
            members[0].start()
            again(node)
            node.wait(lambda: granted([node], 8, "203.0.113.1") == 5, "counting")


def test_replicas_take_over(backend: str) -> None:
    """As they are told, and when their master is dead: with the counts that they had been told of. The node that the
    url names need not be there any more."""
    with redis_cluster() as members, cluster_replica(members, members[0]) as replica:
        config = in_cluster(backend, members, redis_mode="strict")
        config["redis"]["cluster_nodes"] = [server.address for server in members[1:]]
        with serving(config) as node:
            client = next(f"192.0.2.{at}" for at in range(64) if kept_in(node, f"192.0.2.{at}", members[0]))
            assert granted([node], 5, client) == 5
            promote(replica)
            node.wait(lambda: ask(node, client) == 200, "answer of the new master")
            again(node)
            caught_up(members[0], replica)
            replica.kill()
            promote(members[0], "TAKEOVER")
            node.wait(lambda: ask(node, client) == 200, "answer of the first master")
            again(node)
            assert granted([node], 20, client) == 12


def caught_up(server: RedisServer, master: RedisServer) -> None:
    """Until it has all that its master has now."""
    with contextlib.closing(server.client()) as own, contextlib.closing(master.client()) as its:
        sent = its.info("replication")["master_repl_offset"]
        until(lambda: own.info("replication").get("slave_repl_offset", 0) >= sent, "replica that has it all")


def promote(server: RedisServer, *how: str) -> None:
    with contextlib.closing(server.client()) as client:
        client.execute_command("CLUSTER FAILOVER", *how)
        until(lambda: client.info("replication")["role"] == "master", "promotion")


def kept_in(node: InProcess, client: str, member: RedisServer) -> bool:
    """Whether a request of this client is counted there."""
    with contextlib.closing(member.client()) as redis:
        before = redis.dbsize()
        assert ask(node, client) == 200
        return bool(redis.dbsize() > before)


def some(node: InProcess, network: str, status: int) -> bool:
    """Whether one of many clients is answered so."""
    return any(ask(node, f"{network}.{at}") == status for at in range(64))


def test_a_cluster_keeps_cached_responses(members: list[RedisServer]) -> None:
    async def trace() -> None:
        cache = RedisCache(Redis(url=members[1].url, cluster=True, timeout=5))
        for name in (b"a", b"b", b"c"):
            assert await cache.put(Put(name, name, b"meta", b"body " + name, [b"all", b"of " + name], 60_000, 1))
        assert (await cache.get([b"a", b"b", b"nothing"]))[b"b"] == (b"meta", b"body b", False)
        assert await cache.purge_tags([b"of a"]) == 1
        assert await cache.purge_url(b"b", soft=True) == 1
        assert (await cache.get([b"a", b"b"])) == {b"b": (b"meta", b"body b", True)}
        assert await cache.purge_prefix(b"") == 2
        assert await cache.get([b"b", b"c"]) == {}
        cache.retire()
        assert cache._closing is not None
        await cache._closing

    asyncio.run(trace())
