"""`kairos backup` of a gateway that runs, `kairos restore` for one that does not."""

import asyncio
import stat

from click.testing import CliRunner
from sqlalchemy import select

from kairos.cli.manage import main
from kairos.storage.database import Database
from kairos.storage.schema import metadata
from tests.support.gateway import gateway, route


def kairos(*arguments, code=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


async def rows(folder):
    database = Database.in_folder(folder)
    await database.start()
    async with database.read() as connection:
        found = {name: len((await connection.execute(select(t))).all()) for name, t in metadata.tables.items()}
    await database.close()
    return found


def test_what_was_saved_comes_back_elsewhere(tmp_path):
    saved, elsewhere = tmp_path / "saved.tar.gz", tmp_path / "elsewhere"
    with gateway({"routers": [route("/", "http://127.0.0.1:1")]}) as g:
        assert g.admin("PATCH", "/api/backends/http:%2F%2F127.0.0.1:1", {"state": "drain"})[0] == 200
        assert "bytes" in kairos("backup", saved, "--state-dir", g.state_dir)
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        refused = kairos("restore", saved, "--yes", "--state-dir", g.state_dir, code=1)
        assert "is in use by process" in refused
    kairos("restore", saved, "--yes", "--state-dir", elsewhere, "--config", tmp_path / "config.json")
    assert "drain" in (elsewhere / "backends.json").read_text()
    assert "http://127.0.0.1" in (tmp_path / "config.json").read_text()
    asyncio.run(rows(elsewhere))


def test_what_is_no_backup_changes_nothing(tmp_path):
    bad = tmp_path / "bad"
    bad.write_text("hello")
    assert "not a backup" in kairos("restore", bad, "--yes", "--state-dir", tmp_path / "state", code=1)
    assert not (tmp_path / "state" / "kairos.db").exists()
