"""Who may use the admin API, put together: accounts, logins, and what the configuration in use says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kairos.control.access.accounts import Accounts
from kairos.control.access.first import first_account
from kairos.control.access.logins import Logins
from kairos.control.access.passwords import Passwords
from kairos.control.access.sso import SingleSignOn

if TYPE_CHECKING:
    from kairos.config.admin import Admin
    from kairos.storage.database import Database


class Access:
    """`prepare` once the database works, `apply` each configuration that comes into use, then `close`."""

    def __init__(self, database: Database, admin: Admin, passwords: Passwords | None = None) -> None:
        self.admin = admin
        self._prepared = False
        self._passwords = passwords or Passwords()
        self.accounts = Accounts(database, self._passwords)
        self.sso = SingleSignOn(self.accounts)
        self.sso.apply(admin.sso)
        self.logins = Logins(database, self._passwords, admin)

    def things(self) -> dict[str, Any]:
        """What handlers may ask for, by name."""
        return {"access": self, "accounts": self.accounts, "logins": self.logins, "sso": self.sso}

    def apply(self, admin: Admin) -> None:
        """A configuration is in use."""
        self.admin = admin
        self.logins.apply(admin)
        self.sso.apply(admin.sso)

    async def prepare(self, url: str) -> None:
        """Where others than the local administrator may come, at `url`: the roles, and a first account. Raises
        UnavailableError."""
        if not self._prepared and (self.admin.enabled or self.admin.on_gateway):
            await first_account(self.accounts, url)
            self._prepared = True
        elif not self._prepared:
            await self.accounts.keep_roles()

    async def close(self) -> None:
        await self.logins.close()
        await self.sso.close()
        self._passwords.close()
