"""Make a token for routes with the method jwt, signed with the secret of a config's jwt section.

  python tools/generate_jwt.py --config config.json --sub alice --claim role=admin --expires 3600

Rules: issuer and audience come from the config when it names them; a claim's value is JSON where it parses as such
(numbers, true, lists), else text. The token alone goes to standard output: curl -H "Authorization: Bearer $(…)".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt

from kairos.config.load import load
from kairos.config.policies.jwt import texts
from kairos.config.problems import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kairos.config.policies.jwt import Jwt


def claims_of(section: Jwt, sub: str, extra: Mapping[str, Any], expires: int, now: int) -> dict[str, Any]:
    """What the token says."""
    claims: dict[str, Any] = {"sub": sub, "iat": now, "nbf": now, "exp": now + expires}
    for name, wanted in (("iss", texts(section.issuer)), ("aud", texts(section.audience))):
        if wanted:
            claims[name] = wanted[0]
    return claims | dict(extra)


def missing(section: Jwt, claims: Mapping[str, Any]) -> list[str]:
    """Required claims the token would lack: the gateway would refuse it."""
    return [name for name in section.required_claims if name not in claims]


def claim(text: str) -> tuple[str, Any]:
    """A `name=value` of the command line."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a token for routes with auth_required.")
    parser.add_argument("--config", type=Path, required=True, help="the gateway's config, with a jwt section")
    parser.add_argument("--sub", default="tester", help="subject (tester)")
    parser.add_argument("--claim", type=claim, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--expires", type=int, default=3600, metavar="SECONDS", help="may be negative (3600)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        section = load(options.config).config.jwt
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if section is None or section.secret is None:
        print(f"{options.config} has no jwt section with a secret: only who has the key can sign", file=sys.stderr)
        return 1
    claims = claims_of(section, options.sub, dict(options.claim), options.expires, int(time.time()))
    if lacking := missing(section, claims):
        print(f"required_claims asks for {', '.join(lacking)}: give --claim NAME=VALUE", file=sys.stderr)
        return 1
    print(jwt.encode(claims, section.secret, algorithm=(section.algorithms or ["HS256"])[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
