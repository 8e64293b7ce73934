"""The first account: `admin`, where there is no user at all.

Its password is that of KAIROS_ADMIN_PASSWORD or of the file KAIROS_ADMIN_PASSWORD_FILE, and else one that is made up,
written once to standard error and good for one login. It is in no log and no file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kairos.control.access import passwords
from kairos.control.access.accounts import ADMIN
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kairos.control.access.accounts import Accounts

VARIABLE = "KAIROS_ADMIN_PASSWORD"
FILE = "KAIROS_ADMIN_PASSWORD_FILE"

log = get_logger("users")


async def first_account(accounts: Accounts, url: str, environ: Mapping[str, str] = os.environ) -> None:
    """Make it where nobody is there. Raises UnavailableError."""
    given = _given(environ)
    password = given or passwords.one_time()
    if not await accounts.prepare(password, must_change=given is None):
        return
    log.info("the account admin was made", url=url, password=f"of {VARIABLE}" if given else "on standard error")
    if given is None:
        _print(banner(url, password))


def _given(environ: Mapping[str, str]) -> str | None:
    password = environ.get(VARIABLE)
    if not password and (path := environ.get(FILE)):
        try:
            password = Path(path).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            log.error("the first password cannot be read", file=path, error=str(error))
    if password and (found := passwords.objections(password, ADMIN)):
        log.error("the first password is not good enough; another one is made", a_password_has=", ".join(found))
        return None
    return password or None


def banner(url: str, password: str) -> str:
    """To be seen among other lines."""
    line = "=" * 72
    return (
        f"\n{line}\n  Kairos made its first account. Log in at {url}\n\n"
        f"      name      {ADMIN}\n      password  {password}\n\n"
        "  It is shown only now, and has to be changed at the first login.\n"
        f"  Lost? kairos users reset-password {ADMIN}\n{line}\n\n"
    )


def _print(words: str) -> None:
    sys.stderr.write(words)
    sys.stderr.flush()
