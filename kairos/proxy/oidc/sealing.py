"""Text that only this gateway can make and read: AES-256-GCM, with a key made anew for every text.

The key of a text comes from the secret's key and 16 random bytes, so that no number of texts brings the limit of random
nonces (2**32 a key) near. A label is bound to it: what was made for one purpose opens for no other.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSION = b"\x01"
_ID = 4
_SALT = 16
_NONCE = 12
_TAG = 16
_HEAD = 1 + _ID
_LEAST = _HEAD + _SALT + _NONCE + _TAG


class Sealer:
    """Seals with the first of its secrets, opens what any of them sealed."""

    def __init__(self, secrets: Sequence[str], purpose: str) -> None:
        keys = [_derived(secret, purpose) for secret in secrets]
        self._newest = keys[0]
        self._by_id = {_key_id(key): key for key in reversed(keys)}

    def seal(self, data: bytes, label: str) -> str:
        """As text that may stand in a cookie or an address."""
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        locked = _cipher(self._newest, salt).encrypt(nonce, data, label.encode())
        whole = _VERSION + _key_id(self._newest) + salt + nonce + locked
        return urlsafe_b64encode(whole).rstrip(b"=").decode()

    def open(self, text: bytes, label: str) -> bytes | None:
        """What was sealed under the label, or None: it is damaged, forged, of another purpose or of a key long gone."""
        try:
            whole = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        except ValueError:
            return None
        key = self._by_id.get(whole[1:_HEAD])
        if key is None or len(whole) < _LEAST or whole[:1] != _VERSION:
            return None
        salt, nonce = whole[_HEAD : _HEAD + _SALT], whole[_HEAD + _SALT : _HEAD + _SALT + _NONCE]
        try:
            return _cipher(key, salt).decrypt(nonce, whole[_HEAD + _SALT + _NONCE :], label.encode())
        except InvalidTag:
            return None


def _derived(secret: str, purpose: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"kairos " + purpose.encode()).derive(secret.encode())


def _key_id(key: bytes) -> bytes:
    return hmac.digest(key, b"id", "sha256")[:_ID]


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"message" + salt, "sha256"))
