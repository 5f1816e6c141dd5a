"""Migrations under kills and races, and what is refused."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from researchkit.errors import SettingsError, WorkspaceError
from researchkit.security.database import _at, engine, migrate, writing

REVISION = (
    "from alembic import op\nrevision, down_revision = {0!r}, {1!r}\ndef upgrade(): op.execute({2!r})\n"
)
MIGRATE = """
import sys
from pathlib import Path
from researchkit.security.database import migrate
migrate(f"sqlite:///{sys.argv[1]}", Path(sys.argv[2]), name="notes")
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A history of two revisions."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "r1.py").write_text(REVISION.format("0001", None, "CREATE TABLE notes (words TEXT)"))
    (folder / "r2.py").write_text(REVISION.format("0002", "0001", "ALTER TABLE notes ADD COLUMN author TEXT"))
    return folder


def test_processes_that_migrate_together_take_turns(tmp_path: Path, room: Path) -> None:
    args = [sys.executable, "-c", MIGRATE, str(tmp_path / "n.db"), str(room)]
    children = [subprocess.Popen(args) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert _at(engine(f"sqlite:///{tmp_path / 'n.db'}"), "alembic_version_notes") == "0002"


@pytest.mark.parametrize(("instant", "revision"), [("before", None), ("after", "0002")])
def test_a_killed_migration_leaves_the_old_revision_or_the_new(
    tmp_path: Path, room: Path, instant: str, revision: str | None
) -> None:
    kill = {
        "RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"),
        "RESEARCHKIT_KILL_AT": f"migration:{instant}:1",
    }
    args = [sys.executable, "-c", MIGRATE, str(tmp_path / "n.db"), str(room)]
    assert subprocess.run(args, env=os.environ | kill).returncode == -signal.SIGKILL
    db = engine(f"sqlite:///{tmp_path / 'n.db'}")
    assert _at(db, "alembic_version_notes") == revision
    migrate(f"sqlite:///{tmp_path / 'n.db'}", room, name="notes")
    assert _at(db, "alembic_version_notes") == "0002"


def test_two_histories_share_a_file(tmp_path: Path, room: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "r1.py").write_text(REVISION.format("0001", None, "CREATE TABLE others (n INTEGER)"))
    url = f"sqlite:///{tmp_path / 'n.db'}"
    migrate(url, room, name="notes")
    db = migrate(url, other, name="others")
    assert (_at(db, "alembic_version_notes"), _at(db, "alembic_version_others")) == ("0002", "0001")


def test_an_older_file_is_backed_up_whole_and_once(tmp_path: Path, room: Path) -> None:
    later = (room / "r2.py").rename(tmp_path / "r2.py")
    url = f"sqlite:///{tmp_path / 'n.db'}"
    with writing(migrate(url, room, name="notes")) as c:
        c.exec_driver_sql("INSERT INTO notes VALUES ('old')")
    later.rename(room / "r2.py")
    migrate(url, room, name="notes")
    with sqlite3.connect(tmp_path / "n.db.backup-notes-0001") as copy:
        assert copy.execute("SELECT * FROM notes").fetchall() == [("old",)]
    copy.close()


def test_a_newer_file_is_refused_unchanged(tmp_path: Path, room: Path) -> None:
    url = f"sqlite:///{tmp_path / 'n.db'}"
    migrate(url, room, name="notes").dispose()
    (room / "r2.py").unlink()
    before = (tmp_path / "n.db").read_bytes()
    with pytest.raises(WorkspaceError, match="revision 0002, this program knows up to 0001"):
        migrate(url, room, name="notes")
    assert (tmp_path / "n.db").read_bytes() == before
    assert not list(tmp_path.glob("*backup*"))


def test_refusals(tmp_path: Path, room: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        engine("postgresql://quant:hunter2@db/lake")
    assert "hunter2" not in str(caught.value)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(WorkspaceError, match=r"folder\.db cannot be opened"):
        migrate(f"sqlite:///{tmp_path / 'folder.db'}", room, name="notes")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkspaceError, match="cannot be made"):
        migrate(f"sqlite:///{tmp_path / 'file' / 'n.db'}", room, name="notes")


def test_a_failure_inside_writing_leaves_nothing(tmp_path: Path, room: Path) -> None:
    db = migrate(f"sqlite:///{tmp_path / 'n.db'}", room, name="notes")

    def fail_halfway() -> None:
        with writing(db) as c:
            c.exec_driver_sql("INSERT INTO notes VALUES ('half', NULL)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    with db.connect() as c:
        assert c.exec_driver_sql("SELECT count(*) FROM notes").scalar() == 0
