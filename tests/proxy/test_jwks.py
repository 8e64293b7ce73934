"""Keys that an issuer publishes, over its own server, in a gateway of two workers: rotated, withdrawn, out of reach."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.support.gateway import Gateway, gateway, route
from tests.support.jwks import KeyServer, key_server
from tests.support.net import echo, origin, status_of
from tests.support.tokens import OTHER_RSA, P256, RSA, jwk, signed

CONNECTIONS = 24
"""New ones, so that both workers get some."""
INTERVAL = 0.3

A, B, C = (
    signed(key, algorithm, {"kid": kid}) for key, algorithm, kid in ((RSA, "RS256", "a"), (P256, "ES256", "b"),
                                                                    (OTHER_RSA, "PS384", "c"))
)  # fmt: skip


def statuses(gate: Gateway, bearer: str) -> set[int]:
    """Of the same request over many connections."""
    return {status_of(gate.get("/", Authorization=f"Bearer {bearer}")[0]) for _ in range(CONNECTIONS)}


def config(keys: KeyServer, port: int, **members: Any) -> dict[str, Any]:
    section = {
        "jwks_url": keys.url,
        "jwks_ca_file": str(keys.ca_file),
        "jwks_refresh": 1,
        "jwks_min_interval": INTERVAL,
        "issuer": "https://issuer",
        **members,
    }
    return {"jwt": section, "routers": [route("/", f"http://127.0.0.1:{port}", auth_required=True)]}


def test_keys_are_rotated_withdrawn_and_outlive_their_server_and_the_control_process(tmp_path: Path) -> None:
    with (
        origin(echo) as o,
        key_server(tmp_path, jwk(RSA, kid="a")) as keys,
        gateway(config(keys, o.port), workers=2) as gate,
    ):
        assert statuses(gate, A) == {200}
        assert statuses(gate, C) == {401}

        # a new key: the first token that names it has it fetched, wherever it arrives
        keys.keys = [jwk(RSA, kid="a"), jwk(P256, kid="b")]
        gate.wait(lambda: statuses(gate, B) == {200}, "the new key in both workers")
        assert statuses(gate, A) == {200}

        # a reload that is about something else
        more = config(keys, o.port)
        more["routers"] = [*more["routers"], route("/more", o.url)]
        gate.write(more)
        gate.signal(signal.SIGHUP)
        gate.wait(lambda: status_of(gate.get("/more")[0]) == 200, "the new route")

        # made-up kids: no more fetches than there may be
        began, asked = time.monotonic(), keys.asked
        for number in range(50):
            assert (
                status_of(gate.get("/", Authorization=f"Bearer {signed(RSA, 'RS256', {'kid': str(number)})}")[0]) == 401
            )
        elapsed = time.monotonic() - began
        assert keys.asked - asked <= 2 + elapsed / INTERVAL + elapsed / 0.9

        # a key withdrawn: tokens that are known are forgotten too
        keys.keys = [jwk(P256, kid="b")]
        gate.wait(lambda: statuses(gate, A) == {401}, "the end of the old key in both workers")
        assert statuses(gate, B) == {200}

        # nonsense changes nothing
        keys.answer, asked = (200, b"<html>"), keys.asked
        gate.wait(lambda: keys.asked > asked, "another fetch")
        assert statuses(gate, B) == {200}

        # nobody there any more: neither the server nor the control process
        keys.close()
        control = gate.child("kairos-control")
        os.kill(control, signal.SIGKILL)
        for _ in range(3):
            assert statuses(gate, B) == {200}
        gate.wait(lambda: gate.child("kairos-control") not in (0, control), "another control process")
        assert statuses(gate, B) == {200}
        assert statuses(gate, A) == {401}

        # not even after a restart, which finds the set where it was kept
        gate.restart()
        assert statuses(gate, B) == {200}
        assert statuses(gate, A) == {401}


def test_without_keys_the_answer_is_to_come_again(tmp_path: Path) -> None:
    with origin(echo) as o, key_server(tmp_path) as keys:
        keys.answer = (503, b"")
        with gateway(config(keys, o.port)) as gate:
            head, body = gate.get("/", Authorization=f"Bearer {A}")
            assert status_of(head) == 503
            assert b"auth_unavailable" in body
            assert status_of(gate.get("/")[0]) == 401, "who has no token is told so in any case"
            keys.keys, keys.answer = [jwk(RSA, kid="a")], None
            gate.wait(lambda: status_of(gate.get("/", Authorization=f"Bearer {A}")[0]) == 200, "keys at last")
            gate.wait_log("a JWK set cannot be used")
