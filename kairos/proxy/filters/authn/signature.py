"""Signed requests: RFC 9421 with shared secrets. What is signed is judged by kairos/proxy/signatures.py.

A signature that was used once is remembered in memory that all workers share for as long as it would be good, where it
has a nonce. Only signatures that are right get there, so strangers cannot fill it.
"""

from __future__ import annotations

import time
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from kairos._speedups.cells import NONCE_CELLS
from kairos._speedups.limits import FixedWindow, LimitTable
from kairos.proxy.filters.authenticate import Authenticator, Refusal
from kairos.proxy.identity import Identity
from kairos.proxy.signatures import (
    Message,
    Signature,
    SignatureError,
    check_covered,
    check_digest,
    check_time,
    matches,
    signatures_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kairos.config.policies.signatures import Signatures, SigningKey
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.site import Site
    from kairos.scoreboard import Scoreboard

CHALLENGE = b'Signature realm="kairos", algorithm="hmac-sha256"'
INVALID = Refusal("unauthorized", "The signature is not valid")
GONE = Refusal("unauthorized", "The request did not arrive whole")
TOO_LARGE = Refusal("payload_too_large", "The body is too large to be compared with its digest")


class Nonces:
    """Those that were used, in shared memory: each once per key, until its signature has expired."""

    def __init__(self, board: Scoreboard, keep_s: float) -> None:
        self._table = LimitTable(board.page, board.nonces, NONCE_CELLS, 1)
        self._once = FixedWindow(1, max(1_000_000, int(keep_s * 1e6)))
        self._secret = board.seed.to_bytes(8)

    def use(self, key: str, nonce: str) -> bool:
        """False where it was used already, or the table is full of others that may not be forgotten yet."""
        text = f"{len(key)}:{key}{nonce}".encode()
        mark = int.from_bytes(blake2b(text, key=self._secret, digest_size=8).digest())
        return self._table.acquire(mark, self._once, time.monotonic_ns() // 1000) == 0


class SignatureAuth(Authenticator):
    """Made by build()."""

    def __init__(self, spec: Signatures, nonces: Nonces, clock: Callable[[], float] = time.time) -> None:
        self._spec = spec
        self._nonces = nonces
        self._clock = clock
        self._keys = {key.id: (key.secret.encode(), _identity(key)) for key in spec.keys if key.enabled}

    def authenticate(self, x: Exchange) -> Identity | Refusal | Awaitable[Identity | Refusal] | None:
        if x.header(b"signature-input") is None and x.header(b"signature") is None:
            return None
        message = message_of(x)
        try:
            signature, identity = self._signed(message)
            self._spend(signature)
        except SignatureError as error:
            return Refusal("unauthorized", f"{error}"[:500])
        if not _has_body(message) and not message.values("content-digest"):
            return identity
        if self._spec.body_digest and "content-digest" not in signature.names:
            return Refusal("unauthorized", "the signature has to cover content-digest")
        return self._compared(x, message, identity) if self._spec.body_digest else identity

    def _signed(self, message: Message) -> tuple[Signature, Identity]:
        """The first signature by a known key; it has to be right."""
        inputs, values = (", ".join(message.values(name)) for name in ("signature-input", "signature"))
        for signature in signatures_of(inputs, values):
            known = self._keys.get(signature.key_id or "")
            if known is None:
                continue
            secret, identity = known
            check_time(signature, self._clock(), self._spec.max_age, self._spec.skew)
            check_covered(signature, self._spec.required)
            if not matches(signature, message, secret):
                break
            return signature, identity
        raise SignatureError("the signature is not that of a known key")

    def _spend(self, signature: Signature) -> None:
        """A nonce is good once."""
        nonce, key = signature.nonce, signature.key_id
        if nonce is None or key is None:
            if self._spec.require_nonce:
                raise SignatureError("the signature has no nonce")
        elif not self._nonces.use(key, nonce):
            raise SignatureError("the signature was used already")

    async def _compared(self, x: Exchange, message: Message, identity: Identity) -> Identity | Refusal:
        """The body is held for it; it goes on as it came."""
        try:
            body = await x.read(self._spec.body_bytes)
        except ValueError:
            return TOO_LARGE
        except ConnectionResetError:
            return GONE
        try:
            check_digest(", ".join(message.values("content-digest")), body)
        except SignatureError as error:
            return Refusal("unauthorized", f"{error}"[:500])
        return identity

    def withhold(self, x: Exchange) -> None:
        x.set_request_header("Signature", None)
        x.set_request_header("Signature-Input", None)

    def challenge(self) -> bytes:
        return CHALLENGE


def _identity(key: SigningKey) -> Identity:
    subject = key.subject or key.id
    return Identity(subject, "signature", {**key.claims, "sub": subject, "key_id": key.id}, key=key)


def message_of(x: Exchange) -> Message:
    """The request as it was sent."""
    fields = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in x.headers]
    return Message(x.method, x.client_scheme, x.host, x.target.decode("latin-1"), fields)


def _has_body(message: Message) -> bool:
    return bool(message.values("transfer-encoding")) or any(
        value.strip("0") for value in message.values("content-length")
    )


def build(site: Site) -> Authenticator:
    """The authenticator of a route whose section signatures has the keys."""
    spec = site.policies.signatures
    if spec is None:
        raise ValueError(f"route {site.name} wants signatures, but there is no signatures section")
    return site.kept(("signatures", id(spec)), partial(_made, spec, site.board))


def _made(spec: Signatures, board: Scoreboard) -> SignatureAuth:
    # It holds its spec: while it lives, no other one has the same id.
    return SignatureAuth(spec, Nonces(board, spec.max_age + 2 * spec.skew))
