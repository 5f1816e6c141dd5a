"""The end of a licence: nothing readable is left of it, nothing else is touched, no kill leaves it half done, and it excuses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ending
import pytest
from commandline import variables
from ending import TABLE, TELLTALE, copied, end, left, make, opened
from killing import remove
from typer.testing import CliRunner

from researchkit.errors import AccessDenied, NotFound, SecretUnavailable, WorkspaceError
from researchkit.operations.derived import what_ends
from researchkit.operations.destruction import destroy_licence
from researchkit.operations.verify import verify

pytestmark = pytest.mark.xdist_group("ending")
EXPECTED: dict[str, Any] = {
    "broken": [],
    "ended": {"market": 5, "other": 1},  # the other trial's table names the object too
    "telltale": [],
    "rows": [10.0, 11.0, 12.0, 13.0, 14.0],
    "held": [5],
    "equity": {"market": 0, "other": 5},
    "features": 1,
    "keys": [["other"], ["market"]],
    "lines": ["licence ends", "licence ended"],
    "chain": True,
    "scratch": [],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A workspace of two licences, and their trials."""
    root = tmp_path_factory.mktemp("two-licences") / "workspace"
    yield root, make(root)
    remove(root)


@pytest.fixture(scope="module")
def over(
    whole: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """A copy in which one of them has ended."""
    root = copied(whole[0], tmp_path_factory.mktemp("ended") / "workspace")
    end(root)
    return root, whole[1]


@pytest.fixture
def begun(whole: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    """A copy in which nothing has ended yet."""
    return copied(whole[0], tmp_path / "workspace")


@pytest.fixture
def ended(over: tuple[Path, dict[str, str]], tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the ended one, to be damaged."""
    return copied(over[0], tmp_path / "workspace"), over[1]


def lacks(found: dict[str, Any]) -> dict[str, Any]:
    """What is otherwise than it must be after an end."""
    return {k: found[k] for k, wanted in EXPECTED.items() if found[k] != wanted}


# --- what is left ---


def test_nothing_readable_is_left_and_nothing_else_is_touched(
    whole: tuple[Path, dict[str, str]], over: tuple[Path, dict[str, str]]
) -> None:
    before, after = left(whole[0]), left(over[0])
    assert {Path(p).parts[0].removesuffix("-wal") for p in before["telltale"]} == {"archive", "warehouse.db"}
    assert before["rows"][:2] == [TELLTALE, TELLTALE + 1]
    assert lacks(after) == {}
    assert len(after["lake"]) == 1


def test_the_key_is_gone_for_ever(ended: tuple[Path, dict[str, str]]) -> None:
    ws = opened(ended[0])
    sha256 = ws.raw.objects(TABLE)[0].sha256
    with pytest.raises(SecretUnavailable, match="market"):
        ws.raw.get(sha256)
    with pytest.raises(SecretUnavailable, match=r"'market' was destroyed on .* so has its name"):
        ws.raw.put(b"new bytes", name="again", key="market", table=TABLE)


def test_asking_changes_nothing_and_ending_twice_changes_nothing(begun: Path) -> None:
    ws = opened(begun)
    first = what_ends(ws, "market")
    assert first.equals(what_ends(ws, "market"))
    done = destroy_licence(ws, "market", confirmed="market")
    head = ws.ledger.head()
    assert destroy_licence(ws, "market", confirmed="market") == done
    assert ws.ledger.head() == head


# --- what is refused ---


def test_a_wrong_name_ends_nothing(begun: Path) -> None:
    ws = opened(begun)
    with pytest.raises(ValueError, match="'y' is not its name"):
        destroy_licence(ws, "market", confirmed="y")
    with pytest.raises(NotFound, match="no licence 'markt': did you mean market"):
        destroy_licence(ws, "markt", confirmed="markt")
    assert ws.keys.names() == ["market", "other"]


def test_only_a_custodian_ends_a_licence(begun: Path) -> None:
    (begun / "policy" / "roles.json").write_text('{"users": {"*": ["data-engineer", "quant"]}}')
    ws = opened(begun)
    with pytest.raises(AccessDenied, match="may not delete"):
        destroy_licence(ws, "market", confirmed="market")
    assert ws.keys.names() == ["market", "other"]
    assert ws.ledger.entries("licence ends") == []


def test_a_hold_keeps_it_readable_and_a_date_keeps_its_bytes(begun: Path) -> None:
    from datetime import date

    ws = opened(begun)
    found = ws.raw.objects(TABLE)[0]
    ws.raw.retain(found.sha256, date(2099, 1, 1))
    ws.raw.hold(found.sha256, True, "an inquiry")
    with pytest.raises(AccessDenied, match="under a hold"):
        destroy_licence(ws, "market", confirmed="market")
    ws.raw.hold(found.sha256, False, "the inquiry is over")
    destroy_licence(ws, "market", confirmed="market")
    assert ws.raw.verify(found.sha256)[0].ok
    assert ws.raw.custody(found.sha256).bytes == found.cipher_bytes


def test_nothing_ends_under_a_trial_at_work(begun: Path) -> None:
    ws = opened(begun)
    run = ws.run("still at work")
    with pytest.raises(WorkspaceError, match=f"run {run.id[:8]} .* is at work"):
        destroy_licence(ws, "market", confirmed="market")
    with run:
        pass
    destroy_licence(ws, "market", confirmed="market")


# --- what an end does not excuse ---


def artifact(root: Path, trial: str) -> Path:
    """Where a trial's note lies, or lay."""
    row = opened(root).warehouse.rows("artifacts", trial=trial, name="note.txt")[0]
    return root / "archive" / str(row["archive_path"])


def test_other_bytes_in_the_place_of_what_ended_are_broken(ended: tuple[Path, dict[str, str]]) -> None:
    root, trials = ended
    artifact(root, trials["market"]).write_bytes(b"what somebody would rather have")
    broken = [link for link in verify(opened(root), trials["market"]) if not link.ok]
    assert [link.name.rpartition("/")[2] for link in broken] == ["note.txt"]
    destroy_licence(opened(root), "market", confirmed="market")
    assert not artifact(root, trials["market"]).exists()


def test_a_file_of_another_licence_that_is_gone_is_broken(ended: tuple[Path, dict[str, str]]) -> None:
    root, trials = ended
    artifact(root, trials["other"]).unlink()
    broken = [link for link in verify(opened(root), trials["other"]) if not link.ok]
    assert [link.name.rpartition("/")[2] for link in broken] == ["note.txt"]


def test_a_list_that_was_changed_excuses_nothing(ended: tuple[Path, dict[str, str]]) -> None:
    root, trials = ended
    ws = opened(root)
    path = root / "archive" / ws.ledger.entries("licence ends")[0].body["list"]["path"]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    broken = {link.kind for link in verify(ws, trials["market"]) if not link.ok}
    assert broken >= {"licence", "equity", "lake file", "bytes"}
    artifact(root, trials["market"]).write_bytes(b"restored")
    destroy_licence(ws, "market", confirmed="market")  # ends it again, with a list of its own
    assert [link.kind for link in verify(ws, trials["market"]) if not link.ok] == ["licence"]


# --- others at work meanwhile ---


def late(root: Path) -> bytes:
    """Another delivery under the licence."""
    from datetime import UTC, datetime

    from researchkit.data.encode import encode_bars

    return bytes(encode_bars(ending.bars(datetime(2014, 6, 3, tzinfo=UTC), 7777.25), dataset="DEMO"))


def test_who_puts_and_holds_meanwhile_waits_and_is_told(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future, ThreadPoolExecutor

    from researchkit.operations import destruction

    ws, other, real = opened(begun), opened(begun), destruction._announce
    found, waiting = other.raw.objects(TABLE)[0], list[Future[Any]]()
    with ThreadPoolExecutor(2) as pool:

        def announced(*given: Any) -> Any:
            line = real(*given)
            waiting.append(pool.submit(other.raw.put, late(begun), name="late", key="market"))
            waiting.append(pool.submit(other.raw.hold, found.sha256, True, "court order 7"))
            return line

        monkeypatch.setattr(destruction, "_announce", announced)
        destroy_licence(ws, "market", confirmed="market")
    for one in waiting:
        with pytest.raises(SecretUnavailable, match="key 'market' was destroyed on"):
            one.result()
    assert {row["name"] for row in ws.registry.rows("SELECT name FROM raw_objects")} == {"market", "other"}
    assert lacks(left(begun)) == {}


def test_who_had_read_an_object_before_leaves_nothing_readable(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made into a table while the key goes: the rows are found, listed on the ledger, and removed."""
    from concurrent.futures import ThreadPoolExecutor

    from researchkit.data import ingest
    from researchkit.operations import destruction
    from researchkit.operations.endings import listed

    ws, other = opened(begun), opened(begun)
    kept = other.raw.put(late(begun), name="late", key="market")
    read, removed, add = threading.Event(), threading.Event(), ingest.Batch.commit

    def slow(*given: Any, **more: Any) -> Any:
        read.set()
        assert removed.wait(60)
        return add(*given, **more)

    real = destruction._remove

    def remove_then(*given: Any) -> None:
        # the tables' lock is with whoever ingests, so the tables of the list are left for the next round
        monkeypatch.setattr(destruction, "_without", lambda *a: None)
        real(*given)
        monkeypatch.setattr(destruction, "_without", without)
        monkeypatch.setattr(destruction, "_remove", real)
        threading.Timer(0.3, removed.set).start()

    without = destruction._without
    monkeypatch.setattr(ingest.Batch, "commit", slow)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(other.lake.ingest, kept.sha256)
        assert read.wait(60)
        monkeypatch.setattr(destruction, "_remove", remove_then)
        destroy_licence(ws, "market", confirmed="market")
        assert made.result().rows == 5
    after = left(begun)
    assert after["rows"] == EXPECTED["rows"]
    assert after["broken"] == []
    begins = ws.ledger.entries("licence ends")
    assert len(begins) == 2
    paths = [
        r["path"]
        for r in ws.registry.rows("SELECT path FROM lake_files WHERE raw_sha256 = :r", r=kept.sha256)
    ]
    assert set(paths) <= set(listed(ws, begins[-1])["id"].to_list())


def test_a_trial_that_begins_while_a_licence_ends_leaves_it_unfinished(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from researchkit.operations import destruction

    ws, other, real, runs = opened(begun), opened(begun), destruction._announce, []

    def announced(*given: Any) -> Any:
        runs.append(other.run("began too late"))
        return real(*given)

    monkeypatch.setattr(destruction, "_announce", announced)
    with pytest.raises(WorkspaceError, match="is at work"):
        destroy_licence(ws, "market", confirmed="market")
    assert (len(ws.ledger.entries("licence ends")), ws.ledger.entries("licence ended")) == (1, [])
    with runs[0]:
        pass
    monkeypatch.setattr(destruction, "_announce", real)
    destroy_licence(ws, "market", confirmed="market")
    assert len(ws.ledger.entries("licence ended")) == 1


def test_a_deletion_that_was_refused_excuses_no_loss(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from researchkit.experiments.evidence import Link
    from researchkit.operations.endings import explained

    ws = opened(begun)
    found = ws.raw.objects(TABLE)[0]
    path = begun / "raw" / found.path

    def refuse(*given: Any) -> None:
        raise AccessDenied("server: object lock")

    with monkeypatch.context() as patch:
        patch.setattr(ws._raw.store, "delete", refuse)
        with pytest.raises(AccessDenied, match="object lock"):
            ws.raw.delete(found.sha256)
    path.unlink()
    lost = [Link("raw object", "g", False, ws.raw.verify(found.sha256)[0].words, found.sha256)]
    assert [link.ok for link in explained(ws, lost)] == [False]
    ws.registry.write(("UPDATE raw_objects SET deleted_ns = 1", [{}]))
    assert [link.ok for link in explained(ws, lost)] == [False]


# --- kills ---

INSTANTS = ("shred:before:1", "commit:before:3", "shred:after:2", "entry:before:2")


def test_a_kill_is_finished_by_the_next_call(tmp_path: Path) -> None:
    line = [sys.executable, "-W", "ignore", ending.__file__, str(tmp_path), *INSTANTS]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=variables(), timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for at, one in found.items():
        assert one["codes"] == [-9, 0], (at, one["codes"], done.stderr)
        assert lacks(one["left"]) == {}, at
    remove(tmp_path / "whole")


# --- the command ---


def test_the_command_lists_asks_and_ends(begun: Path, whole: tuple[Path, dict[str, str]]) -> None:
    from researchkit.cli import app

    shell, at = CliRunner(), ["-w", str(begun)]
    listed = shell.invoke(app, ["keys", "destroy", "market", "--list", "--full", "--json", *at])
    rows = json.loads(listed.stdout)
    assert {row["kind"] for row in rows} == {
        "raw object", "lake table", "lake file", "pin", "feature cache", "trial", "equity", "artifact", "scratch"
    }  # fmt: skip
    assert {row["becomes"].partition(" ")[0] for row in rows if row["kind"] == "lake table"} == {"rewritten"}
    wrong = shell.invoke(app, ["keys", "destroy", "market", *at], input="yes\n")
    assert (wrong.exit_code, "this will end" in wrong.stdout) == (1, True)
    assert "type 'market' to go on" in wrong.stderr
    assert str(wrong.exception).endswith("'yes' is not 'market', so nothing was done")
    silent = shell.invoke(app, ["keys", "destroy", "market", *at], input="")
    assert str(silent.exception).endswith(
        "nobody typed 'market', so nothing was done; a script says --yes market"
    )
    right = shell.invoke(app, ["keys", "destroy", "market", *at], input="market\n")
    assert right.exit_code == 0
    assert "licence 'market' ended, ledger entry" in right.stdout
    shown = shell.invoke(app, ["run", "show", whole[1]["market"], *at])
    assert "ended with licence 'market', ledger entry" in shown.stdout
    checked = shell.invoke(app, ["verify", whole[1]["market"], *at])
    assert checked.exit_code == 0
    assert "5 of them ended with a licence" in checked.stdout
    keys = json.loads(shell.invoke(app, ["keys", "ls", "--json", *at]).stdout)
    assert {row["key"]: row["state"].partition(" ")[0] for row in keys} == {
        "market": "destroyed", "other": "in", "ledger": "public"
    }  # fmt: skip
