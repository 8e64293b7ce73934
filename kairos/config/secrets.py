"""Keys and passwords as they are made and kept: a key's SHA-256, a password's Argon2id hash."""

from __future__ import annotations

import hashlib
import secrets
import unicodedata

KEY_BYTES = 32
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
"""What one check of a password costs: OWASP's recommendation for Argon2id, some 20 ms."""


def new_key(prefix: str = "kairos") -> str:
    """A key of 256 random bits; the prefix lets people and scanners of leaked secrets know it."""
    return f"{prefix}_{secrets.token_urlsafe(KEY_BYTES)}"


def key_hash(key: str) -> str:
    """What a configuration keeps of a key. Fast on purpose: nobody guesses 256 random bits."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def normal(text: str) -> str:
    """One form for texts that look the same (RFC 8265: NFC)."""
    return unicodedata.normalize("NFC", text)


def password_hash(password: str, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> str:
    """What a configuration keeps of a password: slow on purpose."""
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=LANES).hash(normal(password))
