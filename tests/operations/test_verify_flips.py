"""One flipped byte anywhere between a verdict and the vendor's bytes, and `verify` names it, offline."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from commandline import Command

pytestmark = pytest.mark.xdist_group("finished workspace")


def verify(root: Path, what: str = "latest") -> tuple[int, str]:
    """Type `researchkit verify` in this process: the exit code, and what was printed, on one line."""
    from typer.testing import CliRunner

    from researchkit.cli import app

    done = CliRunner().invoke(app, ["verify", what, "--workspace", str(root)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def change(base: Path, *statements: str) -> None:
    """Change a database behind the platform's back; a statement that changes no row is a fault of the test."""
    with closing(sqlite3.connect(base)) as file:
        for statement in statements:
            assert file.execute(statement).rowcount != 0, statement
        file.commit()


def ask(base: Path, query: str) -> SimpleNamespace:
    """Read one row."""
    with closing(sqlite3.connect(base)) as file:
        file.row_factory = sqlite3.Row
        return SimpleNamespace(**dict(file.execute(query).fetchone()))


def raw_object(root: Path, *, sealed: bool) -> SimpleNamespace:
    """One of the two objects in the raw zone."""
    return ask(
        root / "catalog.db",
        f"SELECT * FROM raw_objects WHERE key_name {'' if sealed else 'NOT '}LIKE '%-sealed'",
    )


# --- each case damages a workspace and returns what the sentence must hold ---


def open_raw_object(root: Path) -> list[str]:
    found = raw_object(root, sealed=False)
    flip(root / "raw" / "objects" / found.sha256[:2] / found.sha256[2:])
    return ["BROKEN raw object", found.name, found.sha256, "SHA-256 must be"]


def sealed_raw_object(root: Path) -> list[str]:
    found = raw_object(root, sealed=True)
    flip(root / "raw" / "objects" / found.sha256[:2] / found.sha256[2:])
    return ["BROKEN raw object", found.name, found.sha256, "SHA-256 must be"]


def raw_register(root: Path) -> list[str]:
    found = raw_object(root, sealed=False)
    other = "0" * 64
    change(
        root / "catalog.db",
        f"UPDATE raw_objects SET cipher_sha256 = '{other}' WHERE sha256 = '{found.sha256}'",
    )
    return ["BROKEN", found.name, "ciphertext must be", found.cipher_sha256]


def lake_file(root: Path, *, sealed: bool) -> list[str]:
    raw = raw_object(root, sealed=sealed)
    found = ask(
        root / "catalog.db", f"SELECT path FROM lake_files WHERE raw_sha256 = '{raw.sha256}' ORDER BY path"
    )
    flip(root / "lake" / found.path)
    return ["BROKEN lake file", found.path, "SHA-256"]


def lake_file_of_open_sessions(root: Path) -> list[str]:
    return lake_file(root, sealed=False)


def lake_file_of_sealed_sessions(root: Path) -> list[str]:
    return lake_file(root, sealed=True)


def pin(root: Path) -> list[str]:
    found = ask(root / "catalog.db", "SELECT pin_id FROM pin_names ORDER BY name")
    other = "0" * 64
    change(
        root / "catalog.db", f"UPDATE pin_tables SET logical_hash = '{other}' WHERE pin_id = '{found.pin_id}'"
    )
    return ["BROKEN pin", "logical", other]


def ledger_row(root: Path) -> list[str]:
    change(
        root / "ledger.db",
        "DROP TRIGGER entries_keep",
        "UPDATE entries SET body = replace(body, '\"read\"', '\"raed\"') WHERE seq = (SELECT min(seq) FROM entries WHERE kind = 'grant')",
    )
    seq = ask(root / "ledger.db", "SELECT min(seq) AS seq FROM entries WHERE kind = 'grant'").seq
    return ["BROKEN ledger chain", f"entry {seq}"]


def ledger_row_that_is_gone(root: Path) -> list[str]:
    change(root / "ledger.db", "DROP TRIGGER entries_stay", "DELETE FROM entries WHERE seq = 7")
    return ["BROKEN ledger chain", "7"]


def ledger_that_was_cut(root: Path) -> list[str]:
    signed = ask(root / "ledger.db", "SELECT max(seq) AS seq FROM checkpoints").seq
    change(root / "ledger.db", "DROP TRIGGER entries_stay", f"DELETE FROM entries WHERE seq >= {signed}")
    return ["BROKEN ledger chain", f"ends at entry {signed - 1}", f"entry {signed} was signed"]


def ledger_without_guard(root: Path) -> list[str]:
    change(root / "ledger.db", "DROP TRIGGER entries_keep")
    return ["BROKEN ledger chain", "trigger entries_keep was removed"]


def archived(root: Path, job: str, name: str) -> Path:
    return next((root / "archive").glob(f"*/*/*/{job}/*/{name}"))


def notebook(root: Path, job: str) -> list[str]:
    path = archived(root, job, "executed.ipynb")
    flip(path)
    return ["BROKEN notebook", path.parent.name[:8], str(path.relative_to(root / "archive")), "SHA-256"]


def notebook_of_the_campaign(root: Path) -> list[str]:
    return notebook(root, "campaign")


def notebook_of_the_ingest(root: Path) -> list[str]:
    return notebook(root, "ingest")


def artifact(root: Path, job: str, name: str, kind: str) -> list[str]:
    path = archived(root, job, name)
    flip(path)
    return [f"BROKEN {kind} {path.parent.name[:8]}", str(path.relative_to(root / "archive")), "SHA-256"]


def model(root: Path) -> list[str]:
    return artifact(root, "challengers", "honest-fold-0.skops", "model")


def equity_artifact(root: Path) -> list[str]:
    return artifact(root, "challengers", "stale_open-equity.parquet", "frame")


def equity_of_the_look(root: Path) -> list[str]:
    return artifact(root, "campaign", "baseline-equity.parquet", "frame")


def calibration_report(root: Path) -> list[str]:
    return artifact(root, "calibration", "honest-calibration.parquet", "frame")


def warehouse(root: Path, statement: str) -> None:
    change(root / "warehouse.db", statement)


def equity_row(root: Path) -> list[str]:
    row = ask(
        root / "warehouse.db",
        "SELECT * FROM equity WHERE strategy = 'stale_open' AND net != 0 ORDER BY ts_known LIMIT 1 OFFSET 20",
    )
    warehouse(
        root,
        f"UPDATE equity SET net = net * 1.0000001 WHERE trial = '{row.trial}' AND strategy = 'stale_open' AND ts_known = {row.ts_known}",
    )
    return [f"BROKEN equity {row.trial[:8]}/stale_open", "net is", repr(row.net), "archived is"]


def equity_row_that_is_gone(root: Path) -> list[str]:
    row = ask(root / "warehouse.db", "SELECT * FROM equity WHERE strategy = 'leverage' LIMIT 1")
    warehouse(
        root,
        f"DELETE FROM equity WHERE trial = '{row.trial}' AND strategy = 'leverage' AND ts_known = {row.ts_known}",
    )
    return [f"BROKEN equity {row.trial[:8]}/leverage", "rows, archived are"]


def metric(root: Path) -> list[str]:
    row = ask(
        root / "warehouse.db", "SELECT * FROM metrics WHERE strategy = 'stale_open' AND name = 'sharpe'"
    )
    warehouse(
        root,
        f"UPDATE metrics SET value = value + 0.5 WHERE trial = '{row.trial}' AND strategy = 'stale_open' AND name = 'sharpe'",
    )
    return [f"BROKEN numbers {row.trial[:8]}/stale_open", "hash of the metrics"]


def calibration_score(root: Path) -> list[str]:
    row = ask(root / "warehouse.db", "SELECT * FROM calibration ORDER BY fold, stage LIMIT 1")
    warehouse(
        root,
        f"UPDATE calibration SET brier = brier - 0.01 WHERE trial = '{row.trial}' AND fold = {row.fold} AND stage = '{row.stage}'",
    )
    return [f"BROKEN numbers {row.trial[:8]}/", f"brier of fold {row.fold}, {row.stage}"]


def verdict_word(root: Path) -> list[str]:
    row = ask(root / "warehouse.db", "SELECT * FROM verdicts WHERE verdict IN ('undecided', 'not moved')")
    warehouse(root, f"UPDATE verdicts SET verdict = 'moved' WHERE challenger = '{row.challenger}'")
    return [f"BROKEN verdict {row.challenger}", f"must be {row.verdict}", "got moved"]


def verdict_body(root: Path) -> list[str]:
    row = ask(root / "warehouse.db", "SELECT * FROM verdicts WHERE verdict IN ('undecided', 'not moved')")
    warehouse(
        root,
        f"UPDATE verdicts SET body = replace(body, 'false', 'true') WHERE challenger = '{row.challenger}'",
    )
    return [f"BROKEN verdict {row.challenger}", "verdict on the ledger"]


def refusal(root: Path) -> list[str]:
    warehouse(root, "UPDATE verdicts SET body = replace(body, '2011', '2012') WHERE challenger = 'peek'")
    return ["BROKEN verdict peek", "verdict on the ledger"]


def registration(root: Path) -> list[str]:
    warehouse(root, "UPDATE campaigns SET body = replace(body, '\"margin\":0.01', '\"margin\":0.02')")
    return ["BROKEN walk latest", "campaign ", "its registration was changed", "SHA-256 is"]


def registration_number(root: Path) -> list[str]:
    warehouse(root, "UPDATE campaigns SET number = 2")
    return ["BROKEN registration two-years", "number must be", "got"]


def trial(root: Path) -> list[str]:
    row = ask(root / "warehouse.db", "SELECT * FROM trials WHERE job = 'challengers'")
    warehouse(root, f"UPDATE trials SET hypothesis = 'H-0' WHERE id = '{row.id}'")
    return [f"BROKEN trial {row.id[:8]}", "hypothesis must be", "got H-0"]


CASES = [
    open_raw_object, sealed_raw_object, raw_register, lake_file_of_open_sessions, lake_file_of_sealed_sessions, pin,
    ledger_row, ledger_row_that_is_gone, ledger_that_was_cut, ledger_without_guard, notebook_of_the_campaign, notebook_of_the_ingest, model,
    equity_artifact, equity_of_the_look, calibration_report, equity_row, equity_row_that_is_gone, metric,
    calibration_score, verdict_word, verdict_body, refusal, registration, registration_number, trial,
]  # fmt: skip


@pytest.mark.parametrize("damage", CASES, ids=lambda f: f.__name__)
def test_the_culprit_is_named(damage: Callable[[Path], list[str]], workspace: Path) -> None:
    wanted = damage(workspace)
    code, said = verify(workspace)
    assert code == 1
    sentences = [line for line in said.splitlines() if line.startswith("BROKEN")]
    assert any(all(word in line for word in wanted) for line in sentences), (wanted, sentences)
    assert re.search(r"\d+ of \d+ links are broken; first: ", said.splitlines()[-1])
    assert "Traceback" not in said


def test_every_file_of_the_archive_is_covered(workspace: Path) -> None:
    """All at once: each file is named, and the walk does not stop at the first."""
    files = sorted(p for p in (workspace / "archive").rglob("*") if p.is_file())
    for path in files:
        flip(path)
    code, said = verify(workspace)
    broken = "\n".join(line for line in said.splitlines() if line.startswith("BROKEN"))
    missed = [
        str(p.relative_to(workspace))
        for p in files
        if str(p.relative_to(workspace / "archive")) not in broken
    ]
    assert (code, missed) == (1, [])
    assert len(files) > 50


def test_a_file_that_is_gone_is_named(workspace: Path) -> None:
    path = archived(workspace, "baseline", "baseline-equity.parquet")
    path.unlink()
    code, said = verify(workspace)
    assert code == 1
    assert str(path.relative_to(workspace / "archive")) in said


# --- where nothing is broken ---


def test_what_is_whole_passes_from_the_shell(finished: Path, command: Command) -> None:
    done = command("verify", "latest", "--workspace", finished)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"all \d+ links hold", done.stdout)


def test_it_passes_without_a_network(workspace: Path, command: Command) -> None:
    """In a network namespace of its own, where not even the loopback is up."""
    alone = next((w for w in (("unshare", "-n"), ("unshare", "-rn")) if possible(w)), None)
    if alone is None:
        pytest.skip("network namespaces cannot be made here")
    done = command("verify", "latest", "--workspace", workspace, before=alone)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"all \d+ links hold", done.stdout)


def possible(words: tuple[str, ...]) -> bool:
    """Whether these words can stand before a command."""
    if shutil.which(words[0]) is None:
        return False
    return subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0


def test_a_moved_workspace_still_verifies(workspace: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "elsewhere" / "deeper").mkdir()
    there = Path(shutil.move(workspace, tmp_path / "elsewhere" / "deeper" / "under another name"))
    assert not workspace.exists()
    done = command("verify", "latest", "--workspace", there)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"all \d+ links hold", done.stdout)
    assert command("lake", "head", "OWN.TEST/ohlcv-1d", "--workspace", there, "--json").returncode == 0


def test_verifying_changes_nothing(workspace: Path) -> None:
    before = ask(workspace / "ledger.db", "SELECT count(*) AS n, max(hash) AS h FROM entries")
    assert verify(workspace)[0] == 0
    assert ask(workspace / "ledger.db", "SELECT count(*) AS n, max(hash) AS h FROM entries") == before


@pytest.mark.parametrize("job", ["ingest", "features", "baseline", "challengers", "calibration", "campaign"])
def test_each_run_verifies_alone(job: str, finished: Path) -> None:
    run = ask(finished / "warehouse.db", f"SELECT id FROM trials WHERE job = '{job}'").id
    code, said = verify(finished, run)
    assert code == 0, said
