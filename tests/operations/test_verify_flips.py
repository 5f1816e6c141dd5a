"""One flipped byte anywhere between a verdict and the vendor's bytes, and `verify` names it, offline."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from commandline import Command

import researchkit

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
    return ["BROKEN registration two-years", "campaign ", "its registration was changed", "SHA-256 is"]


def registration_number(root: Path) -> list[str]:
    warehouse(root, "UPDATE campaigns SET number = 2")
    return ["BROKEN registration two-years", "number must be", "got"]


def trial(root: Path) -> list[str]:
    row = ask(root / "warehouse.db", "SELECT * FROM trials WHERE job = 'challengers'")
    warehouse(root, f"UPDATE trials SET hypothesis = 'H-0' WHERE id = '{row.id}'")
    return [f"BROKEN trial {row.id[:8]}", "hypothesis must be", "got H-0"]


# --- what was removed leaves no trace among the rows, and what was rewritten agrees with itself ---


def edited(
    *statements: str, base: str = "warehouse.db", wanted: tuple[str, ...]
) -> Callable[[Path], list[str]]:
    """A case that changes one database and expects these words in one sentence."""

    def damage(root: Path) -> list[str]:
        change(root / base, *statements)
        return list(wanted)

    return damage


REFUSED = "WHERE challenger = 'peek'"
ABSENT = "and there is no such row"
EDITS = {
    "a_refused_challenger_moves": edited(
        f"UPDATE verdicts SET verdict = 'moved', reason = 'it is far better' {REFUSED}",
        wanted=("BROKEN verdict peek", "verdict must be refused, got moved"),
    ),
    "a_refused_challenger_has_another_reason": edited(
        f"UPDATE verdicts SET reason = 'a trifle' {REFUSED}",
        wanted=("BROKEN verdict peek", "reason must be replay: ", "got a trifle"),
    ),
    "the_naive_answer_to_a_refused": edited(
        f"UPDATE verdicts SET naive = 'no' {REFUSED}", wanted=("BROKEN verdict peek", "naive must be", "got no")
    ),
    "the_naive_answer_to_a_decided": edited(
        "UPDATE verdicts SET naive = 'never' WHERE verdict IN ('undecided', 'not moved')",
        wanted=("BROKEN record verdicts", "naive must be", "got never"),
    ),
    "the_time_of_a_verdict": edited(
        "UPDATE verdicts SET decided_ns = decided_ns - 1", wanted=("BROKEN record verdicts", "decided_ns must be")
    ),
    "screens_are_passed": edited(
        "UPDATE screens SET passed = 1 WHERE passed = 0",
        wanted=("BROKEN record screens", "/leverage/not the baseline resized", "passed must be False", "got True"),
    ),
    "screens_are_gone": edited("DELETE FROM screens", wanted=("BROKEN record screens", "/peek/replay", ABSENT)),
    "a_screen_that_nobody_ran": edited(
        "INSERT INTO screens SELECT trial, strategy, 'another', 1, '' FROM screens LIMIT 1",
        wanted=("BROKEN record screens", "/another", "no line of the ledger says so"),
    ),
    "one_verdict_is_gone": edited(
        f"DELETE FROM verdicts {REFUSED}", wanted=("BROKEN verdict peek", "no such row in verdicts")
    ),
    "all_verdicts_are_gone": edited(
        "DELETE FROM verdicts", wanted=("BROKEN record verdicts", "/peek", ABSENT)
    ),
    "a_verdict_that_nobody_gave": edited(
        "INSERT INTO verdicts SELECT campaign, 'ghost', verdict, reason, naive, decided_ns, ledger_seq, body FROM verdicts LIMIT 1",
        wanted=("BROKEN record verdicts", "/ghost", "no line of the ledger says so"),
    ),
    "campaigns_are_gone": edited(
        "DELETE FROM verdicts", "DELETE FROM openings", "DELETE FROM campaigns",
        wanted=("BROKEN registration two-years", "no such row in campaigns"),
    ),
    "the_time_of_a_registration": edited(
        "UPDATE campaigns SET registered_ns = registered_ns - 1",
        wanted=("BROKEN record campaigns", "registered_ns must be"),
    ),
    "openings_are_gone": edited("DELETE FROM openings", wanted=("BROKEN record openings", ABSENT)),
    "a_result_is_gone": edited(
        "DELETE FROM equity WHERE strategy = 'leverage'", "DELETE FROM results WHERE strategy = 'leverage'",
        wanted=("BROKEN equity", "/leverage", "no such row in results"),
    ),
    "a_result_that_nobody_logged": edited(
        "INSERT INTO results SELECT trial, 'ghost', stream, rows, pin, assumptions FROM results LIMIT 1",
        wanted=("BROKEN record results", "/ghost", "no line of the ledger says so"),
    ),
    "scores_are_gone": edited(
        "DELETE FROM metrics", "DELETE FROM calibration", wanted=("BROKEN record calibration", "/honest", ABSENT)
    ),
    "metrics_are_gone": edited("DELETE FROM metrics", wanted=("BROKEN numbers", "/baseline", "hash of the metrics")),
    "an_artifact_is_gone": edited(
        "DELETE FROM artifacts WHERE name = 'fills.parquet' AND strategy = 'peek'",
        wanted=("BROKEN frame", "/peek/fills.parquet", "no such row in artifacts"),
    ),
    "a_model_becomes_mere_bytes": edited(
        "UPDATE artifacts SET kind = 'bytes' WHERE kind = 'model'",
        wanted=("BROKEN record artifacts", ".skops", "kind must be model", "got bytes"),
    ),
    "a_trial_is_gone": edited(
        "DELETE FROM trials WHERE job = 'features'", wanted=("BROKEN trial", "no such row in trials")
    ),
    "the_pins_of_the_trials_are_gone": edited(
        "DELETE FROM pins_used", wanted=("BROKEN record pins_used", ABSENT)
    ),
    "a_notebook_is_forgotten": edited(
        "UPDATE trials SET notebook_sha256 = NULL WHERE job = 'campaign'",
        wanted=("BROKEN notebook", "SHA-256 in the warehouse", "got None"),
    ),
    "a_trial_never_finished": edited(
        "UPDATE trials SET status = 'failed' WHERE job = 'calibration'",
        wanted=("BROKEN record trials", "status must be finished", "got failed"),
    ),
    "a_trial_is_at_work_again": edited(
        "UPDATE trials SET status = 'running' WHERE job = 'calibration'",
        wanted=("BROKEN record trials", "status must be finished", "got running"),
    ),
    "a_trial_of_somebody_else": edited(
        "UPDATE trials SET principal = 'nobody'", wanted=("BROKEN record trials", "principal must be", "got nobody")
    ),
    "a_trial_began_earlier": edited(
        "UPDATE trials SET started_ns = started_ns - 1", wanted=("BROKEN record trials", "started_ns must be")
    ),
    "a_trial_ended_later": edited(
        "UPDATE trials SET ended_ns = ended_ns + 1", wanted=("BROKEN record trials", "ended_ns must be")
    ),
    "parameters_of_a_trial": edited(
        "UPDATE trials SET parameters = '{}' WHERE job = 'ingest'",
        wanted=("BROKEN record trials", "parameters must be", "got {}"),
    ),
    "the_machine_of_a_trial": edited(
        "UPDATE trials SET environment = '{}'", wanted=("BROKEN record trials", "provenance must be")
    ),
    "assumptions_of_a_result": edited(
        "UPDATE results SET assumptions = '{}' WHERE strategy = 'baseline'",
        wanted=("BROKEN record results", "/baseline", "assumptions must be"),
    ),
    "a_feature_has_another_meaning": edited(
        "UPDATE feature_schemas SET words = 'something else' WHERE position = 0",
        wanted=("BROKEN record feature_schemas", "hash of the rows must be"),
    ),
    "feature_schemas_are_gone": edited(
        "DELETE FROM feature_schemas", wanted=("BROKEN record feature_schemas", ABSENT)
    ),
    "streams_are_gone": edited("DELETE FROM streams", wanted=("BROKEN record streams", ABSENT)),
    "a_stream_that_nobody_made": edited(
        "INSERT INTO streams SELECT 'ab', strategy, trial, seen_ns FROM streams LIMIT 1",
        wanted=("BROKEN record streams ab", "no line of the ledger says so"),
    ),
    "a_raw_object_is_gone": edited(
        "DELETE FROM raw_objects WHERE key_name NOT LIKE '%-sealed'",
        base="catalog.db", wanted=("BROKEN raw object", "no raw object"),
    ),
    "the_name_of_a_raw_object": edited(
        "UPDATE raw_objects SET name = 'other'", base="catalog.db", wanted=("BROKEN record raw_objects", "name must be", "got other")
    ),
    "ingests_are_gone": edited("DELETE FROM ingests", base="catalog.db", wanted=("BROKEN record ingests", ABSENT)),
    "a_lake_file_is_forgotten": edited(
        "DELETE FROM lake_files", base="catalog.db", wanted=("BROKEN record lake_files", ABSENT)
    ),
    "pins_are_gone": edited(
        "DELETE FROM pins", "DELETE FROM pin_names", "DELETE FROM pin_tables",
        base="catalog.db", wanted=("BROKEN record pin_tables", ABSENT),
    ),
}  # fmt: skip


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


@pytest.mark.parametrize("damage", EDITS.values(), ids=EDITS)
def test_nothing_is_removed_or_rewritten_unnoticed(
    damage: Callable[[Path], list[str]], workspace: Path
) -> None:
    test_the_culprit_is_named(damage, workspace)


def test_a_forgotten_campaign_is_still_the_latest(workspace: Path) -> None:
    """The ledger says what is latest; without its row the campaign's runs are walked all the same."""
    before = verify(workspace)[1]
    warehouse(workspace, "DELETE FROM campaigns")
    code, said = verify(workspace)
    counts = [re.search(r"raw object .* (\d+) ", text) for text in (before, said)]
    assert code == 1
    assert counts[0] is not None
    assert counts[1] is not None
    assert counts[0].group() == counts[1].group()


def test_another_code_looked(workspace: Path) -> None:
    """Had the strategies been computed by other code than was registered, it would be said."""
    from researchkit.experiments.account import read_lines
    from researchkit.experiments.evidence import of_campaign

    ws = researchkit.open(workspace)
    lines = read_lines(ws.ledger)
    look = lines["verdict"][-1].context["run"]
    other = [
        replace(e, body=e.body | {"strategy": "0" * 64}) if e.subject == f"run:{look}" else e
        for e in lines["trial"]
    ]
    links = of_campaign(ws, lines | {"trial": other}, lines["registration"][-1])
    found = next(link for link in links if link.kind == "code")
    assert not found.ok
    assert re.fullmatch(rf"code of '\w+' in run {look[:8]} must be [0-9a-f]{{64}}, got 0{{64}}", found.words)


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
