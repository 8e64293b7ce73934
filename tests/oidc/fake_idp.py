"""A provider that does as it is told, also what no good one does; and the control process's part of the login flow."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qs

import jwt
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa

from kairos.config.model import Config
from kairos.control.endings import EndedSessions
from kairos.control.http import Responder, Router
from kairos.control.oidc import Providers
from tests.support.net import Peer, ScriptedOrigin, read_request

CLIENT_SECRET = "a client's secret of more than thirty-two bytes"


_KEYS = itertools.cycle([rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)])
"""Making one takes a tenth of a second."""


class FakeIdp:
    """`claims` are those of the next ID token, but for what a test changes; `answers` stand in place of endpoints."""

    def __init__(self) -> None:
        self.key = next(_KEYS)
        self.kid = "one"
        self.nonce = ""
        self.changes: dict[str, Any] = {}
        self.signing: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, tuple[int, Any]] = {}
        self.tokens: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.heads: list[str] = []
        self._server = ScriptedOrigin(self._serve)
        self.issuer = self._server.url

    def close(self) -> None:
        self._server.close()

    def times_asked(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)

    def _serve(self, peer: Peer) -> None:
        head, body = read_request(peer)
        path = head.decode().split(" ")[1]
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.heads.append(head.decode())
        self.asked.append((path, form))
        status, answer = self.answers[path] if path in self.answers else (200, self._answer(path))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        peer.send(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))

    def _answer(self, path: str) -> Any:
        if path == "/jwks":
            return {"keys": [self.jwk()]}
        if path == "/token":
            return {"access_token": "at", "token_type": "Bearer", "expires_in": 3600, "id_token": self.id_token()} | (
                self.tokens
            )
        if path == "/me":
            return {"sub": "ann", "email": "ann@test"}
        ends = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in ("authorization", "end_session", "revocation")}
        return {
            "issuer": self.issuer, **ends, "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/me",
            "id_token_signing_alg_values_supported": ["RS256", "HS256"],
        } | self.metadata  # fmt: skip

    def logout_token(self, **changes: Any) -> str:
        """A good one, but for some claims; None leaves one out."""
        now = time.time()
        event: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
        good = {
            "iss": self.issuer, "aud": "us", "iat": now, "exp": now + 120, "jti": token_hex(8), "events": event,
        }  # fmt: skip
        claims = {name: value for name, value in (good | changes).items() if value is not None}
        headers = {"kid": self.kid, "typ": "logout+jwt"}
        signing: dict[str, Any] = {"key": self.key, "algorithm": "RS256", "headers": headers} | self.signing
        return jwt.encode(claims, **signing)

    def jwk(self) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()

        def number(value: int) -> str:
            return _encoded(value.to_bytes((value.bit_length() + 7) // 8))

        return {"kty": "RSA", "kid": self.kid, "use": "sig", "n": number(numbers.n), "e": number(numbers.e)}

    def id_token(self) -> str:
        now = time.time()
        good = {
            "iss": self.issuer, "sub": "ann", "aud": "us", "exp": now + 300, "iat": now, "nonce": self.nonce,
            "at_hash": at_hash("at"), "email": "ann@test",
        }  # fmt: skip
        claims = {name: value for name, value in (good | self.changes).items() if value is not None}
        if "secret" in self.signing:
            return _by_hand(claims, self.signing["secret"])
        signing: dict[str, Any] = {"key": self.key, "algorithm": "RS256", "headers": {"kid": self.kid}} | self.signing
        return jwt.encode(claims, **signing)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _by_hand(claims: dict[str, Any], secret: bytes) -> str:
    """With a secret that no library would sign with."""
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "one"}, claims))
    return f"{signed}.{_encoded(hmac.digest(secret, signed.encode(), 'sha256'))}"


def at_hash(token: str) -> str:
    return _encoded(sha256(token.encode()).digest()[:16])


@contextlib.contextmanager
def control(config: Config, file: Path | None = None, changed: Callable[[], None] = lambda: None) -> Iterator[str]:
    """What workers ask of the control process for logins, on a unix socket; its path. It would count H_ENDED up where
    `changed` is called."""
    over, ready = threading.Event(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="kairos-test-") as folder:
        path = str(Path(folder) / "control.sock")

        async def serve() -> None:
            providers = Providers()
            providers.apply(config)
            router = Router({**providers.routes(), **EndedSessions(file, changed).routes()})
            peers: list[Responder] = []

            def accepted() -> Responder:
                peers.append(Responder(router))
                return peers[-1]

            server = await asyncio.get_running_loop().create_unix_server(accepted, path)
            ready.set()
            while not over.is_set():
                await asyncio.sleep(0.01)
            server.close()
            for peer in peers:
                peer._transport.abort()
            await providers.close()

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(25)
            yield path
        finally:
            over.set()
            thread.join(25)
