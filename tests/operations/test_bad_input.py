"""What a person gives the command line by mistake: one sentence, exit code 1, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from commandline import PROGRAM, Command, variables
from test_commands import TRIED
from test_lake_commands import TRIED as TRIED_ON_THE_LAKE

from researchkit.data.vendor import write_manifest

pytestmark = pytest.mark.xdist_group("finished workspace")
TABLE = "OWN.TEST/ohlcv-1d"
COUNTED = {
    "catalog.db": ("raw_objects", "ingests", "lake_files", "pins", "pin_files"),
    "warehouse.db": ("trials", "results", "equity", "campaigns", "verdicts"),
    "ledger.db": ("entries",),
}


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One sentence on the error stream that holds these words, exit code 1, nothing on the output."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert (done.returncode, done.stdout) == (1, ""), done
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in lines[0]
    assert [word for word in words if word not in lines[0]] == [], lines[0]


def holdings(root: Path) -> dict[str, object]:
    """Everything that a workspace holds: files by path, rows by table."""
    kept = [p for part in ("raw", "lake", "archive", "keys", "policy") for p in (root / part).rglob("*")]
    found: dict[str, object] = {str(p.relative_to(root)): p.stat().st_size for p in kept if p.is_file()}
    for base, tables in COUNTED.items():
        with closing(sqlite3.connect(root / base)) as file:
            found |= {t: file.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}
    return found


# --- files that are not what they should be ---


def truncated(source: Path, into: Path) -> Path:
    """The first half of the compressed file."""
    path = into / "half.dbn.zst"
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return path


def cut_record(source: Path, into: Path) -> Path:
    """The plain file without the last ten bytes of its last record."""
    path = into / "cut.dbn"
    path.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(source.read_bytes())[:-10])
    return path


def empty(source: Path, into: Path) -> Path:
    """No bytes at all."""
    path = into / "empty.dbn.zst"
    path.touch()
    return path


def unknown_schema(source: Path, into: Path) -> Path:
    """A header with a schema that nobody knows."""
    data = bytearray(zstandard.ZstdDecompressor().decompressobj().decompress(source.read_bytes()))
    struct.pack_into("<H", data, 24, 999)
    path = into / "strange.dbn"
    path.write_bytes(data)
    return path


def other_schema(source: Path, into: Path) -> Path:
    """Bars of an hour, which the demo cannot run on."""
    from researchkit.data.dbn import read_bars
    from researchkit.data.encode import encode_bars

    path = into / "hourly.dbn.zst"
    path.write_bytes(encode_bars(read_bars(source), dataset="OWN.TEST", schema="ohlcv-1h"))
    return path


def not_dbn(source: Path, into: Path) -> Path:
    """A page of text under the name of a DBN file."""
    path = into / "page.dbn"
    path.write_text("date,open,high,low,close\n2020-01-02,1,1,1,1\n")
    return path


def wrong_hash(source: Path, into: Path) -> Path:
    """A delivery of which one byte changed on its way."""
    folder = into / "delivery"
    folder.mkdir()
    path = folder / source.name
    data = bytearray(source.read_bytes())
    path.write_bytes(data)
    write_manifest(folder, [path.name])
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return folder


def missing_from_delivery(source: Path, into: Path) -> Path:
    """A delivery of which one file never came."""
    folder = wrong_hash(source, into)
    (folder / source.name).unlink()
    return folder


def too_short(source: Path, into: Path) -> Path:
    """A history on which nothing can be trained and tested."""
    from killing import write_stream

    path = into / "short.dbn.zst"
    write_stream(path, sessions=100)
    return path


def nowhere(source: Path, into: Path) -> Path:
    """A path that leads nowhere."""
    return into / "no-such-file.dbn"


def no_dbn(source: Path, into: Path) -> Path:
    """A folder without a DBN file."""
    folder = into / "notes"
    folder.mkdir()
    return folder


FILES: dict[Callable[[Path, Path], Path], tuple[str, ...]] = {  # what is given, the words of the refusal
    wrong_hash: ("IntegrityError", "delivery/two-years.dbn.zst", "SHA-256 is", "by the manifest"),
    missing_from_delivery: ("IntegrityError", "delivery/two-years.dbn.zst", "not in the folder"),
    truncated: ("IntegrityError", "half.dbn.zst", "truncated"),
    cut_record: ("IntegrityError", "cut.dbn", "truncated", "46 of 56 bytes of record 1007"),
    empty: ("IntegrityError", "empty.dbn.zst", "is empty (0 bytes)"),
    unknown_schema: ("SchemaError", "strange.dbn", "unknown schema (code 999)", "one of mbo"),
    other_schema: ("SchemaError", "hourly.dbn.zst", "holds ohlcv-1h", "ohlcv-1d"),
    not_dbn: ("IntegrityError", "page.dbn", "is not DBN", "64 61 74 65"),
    too_short: ("ValueError", "sessions are too few", "at least 112"),
    nowhere: ("NotFound", "no-such-file.dbn"),
    no_dbn: ("NotFound", "notes", ".dbn.zst"),
}


@pytest.mark.parametrize("spoil", FILES, ids=lambda f: f.__name__)
def test_a_bad_file_makes_no_workspace(
    spoil: Callable[[Path, Path], Path], two_years: Path, tmp_path: Path, command: Command
) -> None:
    given = spoil(two_years, tmp_path)
    done = command("demo", "--from", given, "--workspace", tmp_path / "new")
    refused(done, *FILES[spoil])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("spoil", [wrong_hash, truncated, unknown_schema], ids=lambda f: f.__name__)
def test_a_bad_file_changes_no_workspace(
    spoil: Callable[[Path, Path], Path], two_years: Path, tmp_path: Path, command: Command, workspace: Path
) -> None:
    before = holdings(workspace)
    refused(command("demo", "--from", spoil(two_years, tmp_path), "-w", workspace), *FILES[spoil])
    assert holdings(workspace) == before


@pytest.mark.parametrize("spoil", [truncated, unknown_schema, empty], ids=lambda f: f.__name__)
def test_inspect_says_the_same(
    spoil: Callable[[Path, Path], Path], two_years: Path, tmp_path: Path, command: Command
) -> None:
    refused(command("data", "inspect", spoil(two_years, tmp_path)), *FILES[spoil])


# --- questions without an answer ---


QUESTIONS = {
    "symbol": (["head", TABLE, "--symbols", "AAA,AAB"], ("NotFound", "no symbol 'AAB'", "AAA")),
    "weekend": (
        ["head", TABLE, "--from", "2010-01-09", "--to", "2010-01-11"],
        ("NotFound", f"no rows of {TABLE} from 2010-01-09 to 2010-01-11", "there is 2010-01-04 to 2011-12"),
    ),
    "after the end": (
        ["head", TABLE, "--symbols", "BBB", "--from", "2031-01-01"],
        ("NotFound", f"{TABLE} of BBB from 2031-01-01", "there is 2010-01-04"),
    ),
    "before anything was known": (
        ["head", TABLE, "--asof", "2010-01-04"],
        ("NotFound", f"{TABLE} as of 2010-01-04", "there is 2010-01-04"),
    ),
    "as of": (["asof", TABLE, "2009-06-30"], ("NotFound", "as of 2009-06-30", "there is 2010-01-04")),
    "backwards": (
        ["head", TABLE, "--from", "2011-01-01", "--to", "2010-01-01"],
        ("ValueError", "start must lie before end", "2011-01-01 and 2010-01-01"),
    ),
    "no date": (["asof", TABLE, "yesterday"], ("ValueError", "T must be an ISO date", "'yesterday'")),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_is_not_there_is_named(name: str, finished: Path, command: Command) -> None:
    words, said = QUESTIONS[name]
    before = holdings(finished)
    refused(command("lake", *words, "-w", finished), *said)
    after = holdings(finished)
    assert {k: v for k, v in after.items() if k != "entries"} == {
        k: v for k, v in before.items() if k != "entries"
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "show", "fffffff"], ("NotFound", "no run 'fffffff'")),
        (["verify", "fffffff"], ("NotFound", "fffffff")),
        (["verify", "lates"], ("NotFound", "no run 'lates'", "did you mean latest")),
        (["gate", "status", "two-year"], ("NotFound", "no campaign 'two-year'", "two-years")),
        (["job", "run", "ingset"], ("NotFound", "no job 'ingset'", "did you mean ingest")),
        (["job", "run", "features", "-p", "pinn=open"], ("JobError", "job features", "no parameter 'pinn'", "did you mean pin")),
        (["job", "run", "features", "-p", "pin"], ("ValueError", "name=value", "'pin'")),
    ],
)  # fmt: skip
def test_a_wrong_name_is_named(
    words: list[str], said: tuple[str, ...], workspace: Path, command: Command
) -> None:
    before = holdings(workspace)
    refused(command(*words, "-w", workspace), *said)
    assert holdings(workspace) == before


# --- workspaces that cannot be used ---


def test_a_newer_workspace_is_refused(workspace: Path, two_years: Path, command: Command) -> None:
    (workspace / "VERSION").write_text("7\n")
    before = holdings(workspace)
    for words in (["run", "ls"], ["demo", "--from", two_years], ["init"]):
        refused(command(*words, "-w", workspace), "WorkspaceError", str(workspace), "version 7", "up to 1")
    assert holdings(workspace) == before


def test_a_newer_database_is_refused(workspace: Path, command: Command) -> None:
    with closing(sqlite3.connect(workspace / "warehouse.db")) as base:
        names = [
            r[0] for r in base.execute("SELECT name FROM sqlite_master WHERE name LIKE 'alembic_version%'")
        ]
        base.execute(f"UPDATE {names[0]} SET version_num = 'w9999'")
        base.commit()
    before = holdings(workspace)
    refused(command("run", "ls", "-w", workspace), "WorkspaceError", "warehouse", "w9999")
    assert holdings(workspace) == before


def test_an_unknown_setting_is_refused(tmp_path: Path, two_years: Path, command: Command) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "researchkit.toml").write_text('raw_ulr = "file:raw"\n')
    words = ("SettingsError", "researchkit.toml", "no setting 'raw_ulr'", "did you mean raw_url")
    refused(command("demo", "--from", two_years, "-w", root), *words)
    assert [p.name for p in root.iterdir()] == ["researchkit.toml"]
    (root / "researchkit.toml").write_text('raw_url = "gs://bucket"\n')
    refused(command("init", "-w", root), "SettingsError", "raw_url must begin with file: or s3:", "'gs:'")
    assert [p.name for p in root.iterdir()] == ["researchkit.toml"]


def mortal(folder: Path) -> tuple[str, ...]:
    """Take a folder away from this account; words to put before a command, for whoever is root and above such rules."""
    if os.getuid() != 0:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        return ()
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65534, 65534)
    return (str(shutil.which("setpriv")), "--bounding-set=-all", "--inh-caps=-all")


def test_somebody_elses_workspace_is_refused(workspace: Path, two_years: Path, command: Command) -> None:
    before, who = holdings(workspace), mortal(workspace)
    for words in (["run", "ls"], ["demo", "--from", two_years], ["verify"], ["lake", "head", TABLE]):
        refused(
            command(*words, "-w", workspace, before=who),
            "WorkspaceError",
            str(workspace),
            "cannot be written",
        )
    assert holdings(workspace) == before


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, two_years: Path, command: Command
) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o755)
    who = mortal(shut)
    for words in (["init"], ["demo", "--from", two_years]):
        done = command(*words, "-w", shut / "new", before=who)
        refused(done, "WorkspaceError", str(shut / "new"), "Permission denied")
    assert list(shut.iterdir()) == []


def test_a_damaged_database_is_named(workspace: Path, command: Command) -> None:
    for path in workspace.glob("warehouse.db-*"):
        path.unlink()
    (workspace / "warehouse.db").write_bytes(b"this is no database" * 300)
    refused(command("run", "ls", "-w", workspace), "database", "not a database")


# --- two at once, and what programs read ---


def test_a_second_demo_is_refused_and_the_first_says_json(
    tmp_path: Path, two_years: Path, command: Command
) -> None:
    root = tmp_path / "workspace"
    line = [PROGRAM, "demo", "--from", two_years, "-w", root, "--json"]
    first = subprocess.Popen(
        [str(w) for w in line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables()
    )
    try:
        until = time.monotonic() + 60
        while not list((root / "tmp").glob("job-*")) and first.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        second = command("demo", "--from", two_years, "-w", root)
        assert first.poll() is None, "the first had ended before the second began"
        refused(second, "WorkspaceError", str(root), "another demo is running")
        said, noise = first.communicate(timeout=300)
    finally:
        first.kill()
    assert (first.returncode, noise) == (0, "")
    outcome = json.loads(said)
    assert {row["challenger"] for row in outcome["table"]} == {"honest", "peek", "leverage", "stale_open"}
    assert outcome["denied"]["asked"] == "OWN.TEST/mbo"
    assert len(outcome["runs"]) == 6
    assert holdings(root)["campaigns"] == 1
    subprocess.run(
        [str(PROGRAM), "workspace", "destroy", "-w", str(root), "--yes", root.name],
        check=True,
        capture_output=True,
        env=variables(),
    )
    assert not root.exists()


JSON = [
    "init", "verify latest", "data inspect FILE", "data ls", "data verify", "lake tables", f"lake head {TABLE}",
    f"lake asof {TABLE} 2010-06-30T12:00", f"access who {TABLE}", "access explain root read OWN.TEST/ohlcv-1d", "ledger show",
    "ledger verify", "job ls", "run ls", "run show", "gate status", "gate power",
]  # fmt: skip


@pytest.mark.parametrize("words", JSON)
def test_json_is_json_and_nothing_else(words: str, finished: Path, two_years: Path, command: Command) -> None:
    typed = [str(two_years) if w == "FILE" else w for w in words.split()]
    at = [] if words in ("job ls", "gate power") or words.startswith("data inspect") else ["-w", finished]
    done = command(*typed, *at, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert json.loads(done.stdout)


def test_every_command_with_json_was_tried() -> None:
    from researchkit.cli import app

    found = {c.callback.__name__ for c in app.registered_commands if "json" in c.callback.__annotations__}
    for group in app.registered_groups:
        found |= {
            c.callback.__name__
            for c in group.typer_instance.registered_commands
            if "json" in c.callback.__annotations__
        }
    tried = {"_".join(w for w in words.split()[:2] if w not in ("latest",)) for words in JSON}
    elsewhere = {"certificate", "parity", "sweep"}  # each has a file of its own, with its output for machines
    assert found - tried - TRIED - TRIED_ON_THE_LAKE - elsewhere == {
        "demo",
        "job_run",
    }  # the first above, the second costs a kernel


# --- usage and debugging ---


@pytest.mark.parametrize(
    "words",
    [
        "no-such-noun",
        "lake",
        "lake head",
        "lake head T --wrong",
        "demo --workspace",
        "gate power --ideas two",
    ],
)
def test_a_word_that_is_no_command_is_a_usage_error(words: str, command: Command) -> None:
    done = command(*words.split())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path, command: Command) -> None:
    done = command("--debug", "run", "ls", "-w", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "there is no workspace at" in done.stderr.splitlines()[-1]
