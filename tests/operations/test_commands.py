"""What the commands about keys, secrets, ledger, witness and raw zone say, and how they exit."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from killing import remove
from typer.testing import CliRunner, Result

import researchkit
from researchkit.cli import app
from researchkit.commands.console import sentence
from researchkit.operations.doctor import mode_checks

pytestmark = pytest.mark.xdist_group("ending")
TABLE = "DEMO/ohlcv-1d"
CUSTODIAN = '{"users": {"*": ["custodian", "data-engineer", "quant"]}}'
SECRET = "correct horse battery staple"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A workspace with one raw object, a custodian, and a few lines on its ledger."""
    place = tmp_path / "workspace"
    ws = researchkit.open(place)
    (place / "policy" / "roles.json").write_text(CUSTODIAN)
    ws.raw.put(b"vendor bytes", name="two-days", key="market", table=TABLE)
    yield place
    remove(place)


def typed(*words: object, at: Path | None = None, given: str | None = None) -> Result:
    """Type a command in this process."""
    where = [] if at is None else ["-w", str(at)]
    return CliRunner().invoke(app, [*map(str, words), *where], input=given)


def said(*words: object, at: Path | None = None, given: str | None = None) -> Any:
    """Type a command with --json: exit code 0, and what it says."""
    done = typed(*words, "--json", at=at, given=given)
    assert (done.exit_code, done.stderr) == (0, ""), (words, done.exception, done.stderr)
    return json.loads(done.stdout)


def refused(*words: object, at: Path | None = None, given: str | None = None) -> str:
    """Type a command that is refused: exit code 1, and the one sentence that `main` would say."""
    done = typed(*words, at=at, given=given)
    assert done.exit_code == 1, (words, done.stdout)
    found = sentence(done.exception) if isinstance(done.exception, Exception) else None
    assert found is not None, done.exception
    return found


def sha256(root: Path) -> str:
    """The one object of the workspace."""
    return str(researchkit.open(root).raw.objects()[0].sha256)


TRIED = {  # with --json, below; `test_bad_input` counts them among all commands
    "doctor", "data_versions", "data_retain", "data_hold", "data_release", "secret_put", "secret_ls", "keys_ls",
    "keys_create", "keys_rotate", "keys_rewrap", "keys_destroy", "ledger_checkpoint", "ledger_export",
    "ledger_install", "witness_key", "witness_trust", "witness_distrust",
}  # fmt: skip


# --- secrets ---


def test_a_secret_goes_in_and_never_comes_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    done = typed("secret", "put", "store", "--json", at=root, given=f"{SECRET}\n")
    listed = typed("secret", "ls", "--json", at=root)
    again = typed("secret", "put", "store", "--version", "0", at=root, given="another")
    shown = typed("ledger", "show", "--kind", "secret", "--json", at=root)
    everything = [done, listed, again, shown]
    assert not any(SECRET in r.output or SECRET in repr(r.exception) for r in everything)
    assert SECRET not in caplog.text
    assert json.loads(listed.stdout) == [{"secret": "store", "version": 1}]
    assert [row["what"] for row in json.loads(shown.stdout)] == ["deed=put, version=1"]
    assert researchkit.open(root).secrets.get("store").reveal() == SECRET
    assert not any(SECRET.encode() in p.read_bytes() for p in root.rglob("*") if p.is_file())


def test_a_secret_of_fields_comes_as_json(root: Path) -> None:
    words = ("secret", "put", "ledger-writer", "-f", "user", "-f", "password")
    assert said(*words, at=root, given='{"user": "w", "password": "p"}')[0]["version"] == 1
    assert "fields user, password and no others" in refused(*words, at=root, given='{"user": "w"}')
    assert "fields user, password and no others" in refused(*words, at=root, given="w:p")
    fields = researchkit.open(root).secrets.fields("ledger-writer")
    assert {k: v.reveal() for k, v in fields.items()} == {"user": "w", "password": "p"}


def test_secrets_are_listed_a_page_at_a_time_and_removed_by_name(root: Path) -> None:
    for name in ("a", "b", "c"):
        said("secret", "put", name, at=root, given="value")
    assert [r["secret"] for r in said("secret", "ls", "--rows", "1", "--after", "a", at=root)] == ["b"]
    assert "'yes' is not 'b'" in refused("secret", "rm", "b", "--yes", "yes", at=root)
    assert typed("secret", "rm", "b", at=root, given="b\n").exit_code == 0
    assert "no secret 'b'" in refused("secret", "rm", "b", "--yes", "b", at=root)
    assert "empty" in refused("secret", "put", "d", at=root, given="")


def test_a_value_on_the_command_line_is_a_usage_error(root: Path) -> None:
    assert typed("secret", "put", "store", SECRET, at=root).exit_code == 2


# --- keys ---


def test_keys_are_made_wrapped_anew_and_told_to_the_ledger(root: Path) -> None:
    assert said("keys", "create", "other", at=root) == [{"key": "other", "made": True}]
    assert said("keys", "create", "other", at=root) == [{"key": "other", "made": False}]
    assert [r["key"] for r in said("keys", "rotate", at=root)] == ["market", "other"]
    assert [r["key"] for r in said("keys", "rewrap", "market", at=root)] == ["market"]
    before = said("keys", "ls", at=root)[-1]["state"]
    assert said("keys", "rotate", "--signer", at=root)[0]["public"] not in before
    deeds = [row["what"] for row in said("ledger", "show", "--kind", "key", at=root)]
    assert deeds == ["deed=created", "deed=rotated", "deed=wrapped anew", "deed=rotated"]
    assert researchkit.open(root).raw.get(sha256(root)) == b"vendor bytes"
    assert [r["key"] for r in said("keys", "ls", "--after", "market", at=root)] == ["other"]


def test_a_passphrase_is_set_needed_and_removed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import researchkit.security.master as master

    monkeypatch.setattr(master.Master.__init__, "__kwdefaults__", {"cost": 1 << 4})
    kept = tmp_path / "passphrase"
    kept.write_text(f"{SECRET}\n")
    kept.chmod(0o600)
    assert "at least 8 characters" in refused("keys", "passphrase", at=root, given="short")
    assert typed("keys", "passphrase", at=root, given=f"{SECRET}\n").exit_code == 0
    assert "RESEARCHKIT_PASSPHRASE_FILE" in refused("keys", "create", "other", at=root)
    monkeypatch.setenv("RESEARCHKIT_PASSPHRASE_FILE", str(kept))
    assert said("keys", "create", "other", at=root)[0]["made"]
    assert typed("keys", "passphrase", "--remove", at=root).exit_code == 0
    monkeypatch.delenv("RESEARCHKIT_PASSPHRASE_FILE")
    assert researchkit.open(root).raw.get(sha256(root)) == b"vendor bytes"


def test_a_key_that_nobody_knows_is_named(root: Path) -> None:
    assert "did you mean market" in refused("keys", "destroy", "markt", "--list", at=root)
    assert "'y' is not 'market'" in refused("keys", "destroy", "market", "--yes", "y", at=root)
    assert said("keys", "destroy", "market", "--yes", "market", at=root)["things"] == {"raw object": 1}
    assert "was destroyed on" in refused("keys", "create", "market", at=root)
    assert said("keys", "destroy", "market", "--yes", "market", at=root)["things"] == {"raw object": 1}


def test_a_misspelt_name_is_answered_with_the_nearest(root: Path) -> None:
    before = (root / "keys" / "master.json").read_bytes()
    for verb in ("rewrap", "rotate"):
        assert "no key 'markt': did you mean market?" in refused("keys", verb, "markt", at=root)
    assert (root / "keys" / "master.json").read_bytes() == before
    table = researchkit.open(root).raw.objects()[0].table_name
    assert f"did you mean {table}?" in refused("data", "verify", table[:-1], at=root)
    assert said("data", "verify", table, at=root)["objects"] == 1
    absent = refused("secret", "put", "new", "--version", "3", at=root, given="value")
    assert absent.endswith("is at version 0, not 3: it has no such version")


def test_a_passphrase_that_nobody_gave_is_not_a_short_one(root: Path) -> None:
    assert "no passphrase was given" in refused("keys", "passphrase", at=root, given="")


def test_a_hold_is_said_before_the_list_and_an_end_after_it(root: Path) -> None:
    ws = researchkit.open(root)
    ws.raw.hold(sha256(root), True, "an audit")
    held = typed("keys", "destroy", "market", "--list", at=root)
    assert "will be refused: raw object" in held.stderr
    for was_not in (False, True):
        released = typed("data", "release", sha256(root), "--reason", "it is over", at=root)
        assert ("was not held" in released.stderr) is was_not
    assert typed("keys", "destroy", "market", "--list", at=root).stderr == ""
    entry = said("keys", "destroy", "market", "--yes", "market", at=root)["entry"]
    words = f"licence 'market' ended, ledger entry {entry}"
    for more in (("--list",), ()):
        again = typed("keys", "destroy", "market", *more, at=root)
        assert (again.exit_code, words in " ".join(again.stdout.split())) == (0, True)
        assert "removed" not in again.stdout
    tombstone = root / "keys" / "destroyed" / "market.json"
    assert tombstone.stat().st_mode & 0o777 == 0o600
    for mode in (0o600, 0o444):  # an earlier version made them so
        tombstone.chmod(mode)
        assert not [c for c in mode_checks(ws.settings) if "market" in c.name]
    tombstone.chmod(0o666)
    assert [c.state for c in mode_checks(ws.settings) if "market" in c.name] == ["fail"]


def test_a_day_that_is_past_keeps_nothing(root: Path) -> None:
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    for day in ("2020-01-01", today):
        assert f"must be after today, {today} " in refused("data", "retain", sha256(root), day, at=root)


def test_an_interrupted_check_says_how_it_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import researchkit.data.rehash as rehash

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rehash, "rehash", interrupted)
    stopped = typed("data", "verify", at=root)
    assert (stopped.exit_code, stopped.stderr) == (130, "interrupted: the same command goes on from there\n")


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy in MLflow, whose first database takes seconds."""
    monkeypatch.setattr("researchkit.experiments.tracking.publish", lambda *_, **__: "none")


@pytest.mark.usefixtures("untracked")
def test_a_job_and_a_run_stopped_by_hand_are_aborted(root: Path) -> None:
    from researchkit.jobs.runner import Executed
    from researchkit.jobs.runner import run as run_job
    from researchkit.jobs.spec import read

    def stopped(*_: object, **__: object) -> Executed:
        return Executed(root / "nowhere", "page: interrupted", interrupted=True)

    ws, job = researchkit.open(root), next(iter(read().values()))
    with pytest.raises(researchkit.errors.JobError, match="interrupted"):
        run_job(ws, job, executing=stopped)
    with pytest.raises(KeyboardInterrupt), ws.run("by hand"):
        raise KeyboardInterrupt
    ended = {r["title"]: (r["status"], r["reason"]) for r in said("run", "ls", "--last", "2", at=root)}
    assert ended[job.words] == ("aborted", "page: interrupted")
    assert ended["by hand"] == ("aborted", "interrupted from the keyboard")


@pytest.mark.usefixtures("untracked")
def test_a_sweep_is_shown_again_with_every_point(root: Path) -> None:
    from researchkit.backtest.scoring import KINDS
    from researchkit.experiments.sweeps import keep, setting

    blank = dict.fromkeys(KINDS)
    rows = [{"point": p, "fast": p, **blank, "sharpe": s, "error": None} for p, s in ((1, 0.2), (2, 0.7))]
    frame = pl.DataFrame(rows, schema_overrides={**KINDS, "error": pl.String})
    search = {"space": {"fast": ["1", "2"]}, "order": ["fast"], "random": 0, "seed": 0}
    with researchkit.open(root).run("sweep of trend") as run:
        list(keep(run, iter([frame]), setting("trend", search=search, by="sharpe")))
    told = said("run", "show", run.id, at=root)["sweep"]
    assert (told["grid"], told["winner"], told["strategy"]) == ("fast=1,2", "point 2: fast 2", "trend")
    assert [(p["fast"], p["sharpe"]) for p in told["points"]] == [(1, 0.2), (2, 0.7)]
    shown = typed("run", "show", run.id, at=root).stdout
    assert "point 2: fast 2" in shown
    assert f"points(ws.runs.shelves, '{run.id}')" in shown


# --- the ledger ---


def test_the_ledger_is_shown_a_page_at_a_time(root: Path) -> None:
    ws = researchkit.open(root)
    for n in range(6):
        ws.ledger.append("note", {"n": n}, ws.context, subject=f"thing:{n % 2}")
    newest = [r["seq"] for r in said("ledger", "show", "--last", "2", at=root)]
    earlier = [r["seq"] for r in said("ledger", "show", "--last", "2", "--before", newest[0], at=root)]
    assert [n - 2 for n in newest] == earlier
    about = ("ledger", "show", "--about", "thing:1", "--last", "2")
    page = [r["what"] for r in said(*about, at=root)]
    first = said(*about, at=root)[0]["seq"]
    assert (page, [r["what"] for r in said(*about, "--before", first, at=root)]) == (["n=3", "n=5"], ["n=1"])
    assert said("ledger", "show", "--who", "nobody", at=root) == []
    assert said("ledger", "show", "--before", "1", at=root) == []
    assert "--before turns the pages" in refused("ledger", "show", "--kind", "note", "--before", 3, at=root)


def test_a_checkpoint_and_a_proof_leave_the_house(root: Path, tmp_path: Path) -> None:
    note, proof, part = tmp_path / "note", tmp_path / "proof.json", tmp_path / "part.jsonl"
    assert "researchkit ledger checkpoint" in refused("ledger", "export", 1, "--to", proof, at=root)
    assert not proof.exists()
    assert said("ledger", "checkpoint", "--to", note, at=root)["note"] == note.read_text()
    assert said("ledger", "verify", "--checkpoint", note, at=root)[0]["checkpoints"] == 1
    assert "the ledger ends at entry " in refused("ledger", "export", 5000, "--to", proof, at=root)
    out = said("ledger", "export", 1, "--to", proof, "--verifier", at=root)[0]
    key = researchkit.open(root).keys.signer().public_hex
    assert (out["entries"], out["check"]) == (1, f"python verifier.py proof.json --key {key}")
    assert said("ledger", "export", 1, 1, "--to", part, at=root)[0]["entries"] == 1
    assert (tmp_path / "verifier.py").is_file()
    assert "is there already" in refused("ledger", "export", 1, "--to", proof, at=root)
    assert "needs no installation" in refused("ledger", "install", "--json", at=root)


def test_an_edited_ledger_is_one_sentence(root: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(root / "ledger.db")) as base:
        base.execute("DROP TRIGGER entries_keep")
        base.execute("UPDATE entries SET body = replace(body, 'two-days', 'ten-days')")
        base.commit()
    assert "ledger entry 1" in refused("ledger", "verify", at=root)


# --- the witness ---


def test_a_witness_is_set_up_without_a_workspace(tmp_path: Path) -> None:
    folder = tmp_path / "w1"
    made = said("witness", "key", folder, "--name", "audit.example/w1", "--host", "audit.example")[0]
    assert made["researchkit.toml"].startswith('witness_url = "https://audit.example:8443?key=')
    shown = typed("witness", "key", folder, "--host", "audit.example").stdout.splitlines()
    assert made["researchkit.toml"] in shown
    assert said("witness", "trust", folder) == []
    assert said("witness", "trust", folder, "researchkit/ledger/0", "ab" * 32)[0]["public keys"] == "ab" * 32
    assert "give both" in refused("witness", "trust", folder, "researchkit/ledger/0")
    said("witness", "trust", folder, "researchkit/ledger/0", "cd" * 32)
    left = said("witness", "distrust", folder, "researchkit/ledger/0", "ab" * 32)
    assert left == [{"origin": "researchkit/ledger/0", "public keys": "cd" * 32}]
    assert "no trusted key" in refused("witness", "distrust", folder, "researchkit/ledger/0", "ab" * 32)
    pem = tmp_path / "some.pem"
    pem.touch()
    served = ("witness", "serve", tmp_path, "--certificate", pem, "--key", pem)
    assert "researchkit witness key makes one" in refused(*served)
    assert typed("witness", "serve", folder, "--certificate", tmp_path / "none", "--key", pem).exit_code == 2


# --- the raw zone ---


def test_objects_are_kept_held_released_and_named_by_their_beginning(root: Path) -> None:
    short = sha256(root)[:12]
    assert said("data", "retain", short, "2030-01-01", at=root)[0]["kept until"] == "2030-01-01 00:00:00 UTC"
    assert "can only be made later" in refused("data", "retain", short, "2029-01-01", at=root)
    assert said("data", "hold", short, "--reason", "an inquiry", at=root)[0]["held"] is True
    assert "hold" in refused("data", "delete", short, "--yes", "two-days", at=root)
    assert said("data", "release", short, "--reason", "it is over", at=root)[0]["held"] is False
    assert "2030-01-01" in refused("data", "delete", short, "--yes", "two-days", at=root)
    assert "'y' is not 'two-days'" in refused("data", "delete", short, "--yes", "y", at=root)
    assert said("data", "versions", "two-days", TABLE, at=root)[0]["version"] == 1
    assert "8 to 64 hexadecimal digits" in refused("data", "hold", "abc", "--reason", "r", at=root)
    assert "no raw object 'ffffffff'" in refused("data", "hold", "ffffffff", "--reason", "r", at=root)
    assert typed("data", "hold", short, at=root).exit_code == 2
    assert typed("data", "retain", short, "tomorrow", at=root).exit_code == 2


def test_a_quant_keeps_nothing(root: Path) -> None:
    (root / "policy" / "roles.json").write_text('{"users": {"*": ["quant"]}}')
    assert "may not hold" in refused("data", "hold", sha256(root), "--reason", "r", at=root)
    assert "may not retain" in refused("data", "retain", sha256(root), "2030-01-01", at=root)


def test_a_damaged_object_is_an_exit_code_and_a_row(root: Path) -> None:
    from researchkit.security.durable import clear_immutable

    assert said("data", "verify", "--workers", "2", at=root)["ok"] is True
    path = next(p for p in (root / "raw" / "objects").rglob("*") if p.is_file())
    clear_immutable(path)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    done = typed("data", "verify", "--json", at=root)
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (1, False)
    assert "1 do not hold" in typed("data", "verify", at=root).stdout


# --- the doctor ---


def test_the_doctor_says_what_it_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import researchkit.operations.phonehome as phonehome

    monkeypatch.setattr(phonehome, "lab_settings", lambda environ: None)  # asks JupyterLab, for two seconds
    done = typed("doctor", "--json", at=root)
    found = json.loads(done.stdout)
    assert {row["state"] for row in found} <= {"ok", "warn", "unknown", "fail"}
    assert done.exit_code == (1 if any(row["state"] == "fail" for row in found) else 0)
    assert all(row["remedy"] for row in found if row["state"] == "fail")
