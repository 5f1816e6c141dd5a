"""One flipped thing anywhere under a run, and the chain names it; models of every kind open and say the same."""

import json
import socket
import sqlite3
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from researchkit.calibration.calibrators import Beta, Identity, Isotonic, Platt
from researchkit.context import Context, Principal
from researchkit.data.archive import Archive, notebook_hash
from researchkit.errors import IntegrityError
from researchkit.experiments.artifacts import model_artifact, predictions_hash, read_model
from researchkit.experiments.evidence import chain, summary
from researchkit.experiments.runs import Runs
from researchkit.experiments.warehouse import Warehouse
from researchkit.frames import EQUITY, FEATURES, conform
from researchkit.security.ledger import Ledger

N = 120
DEAD = json.dumps({"host": socket.gethostname(), "boot": "another", "pid": 1})
DAYS = pl.datetime_range(
    datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 4, 30, tzinfo=UTC), "1d", eager=True
)
NOTEBOOK = {
    "nbformat": 4, "nbformat_minor": 5, "metadata": {},
    "cells": [{"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": "1 + 1", "outputs": []}],
}  # fmt: skip


def _features():
    rng = np.random.default_rng(0)
    columns = {"fast": rng.normal(size=N), "slow": rng.normal(size=N)}
    return conform(pl.DataFrame({"ts_known": DAYS, "symbol": ["SPX"] * N, **columns}), FEATURES)


def _equity():
    net = 0.01 * np.random.default_rng(1).normal(size=N)
    zero = np.zeros(N)
    columns = {
        "cash": zero,
        "position_value": zero,
        "equity": 1e6 * (1 + net.cumsum()),
        "gross": net,
        "net": net,
    }
    return conform(pl.DataFrame({"ts_known": DAYS, **columns, "turnover": zero, "costs": zero}), EQUITY)


def _fitted():
    from sklearn.linear_model import LogisticRegression

    x = _features().select("fast", "slow").to_numpy()
    y = (x[:, 0] > 0).astype(int)
    model = LogisticRegression().fit(x, y)
    calibrator = Platt().fit(model.predict_proba(x)[:, 1], y)
    return SimpleNamespace(models=(SimpleNamespace(number=0, estimator=model, calibrator=calibrator),))


@pytest.fixture
def source(tmp_path):
    made = SimpleNamespace(
        folder=tmp_path,
        warehouse=Warehouse(f"sqlite:///{tmp_path / 'warehouse.db'}"),
        archive=Archive(tmp_path / "archive"),
        ledger=Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"),
        pins=None,
        raw=None,
        registry=None,
    )
    who = Context(Principal("quant7", ("quant",)))
    runs = Runs(warehouse=made.warehouse, archive=made.archive, ledger=made.ledger, context=who)
    scores = pl.DataFrame({"fold": [0, -1], "stage": ["raw", "raw"], "n": [60, 60], "brier": [0.2, 0.21]})
    with runs.start("a trend", hypothesis="H-7", job="lesson", parameters={"span": 20}) as run:
        run.log(result=_equity(), features=_features(), model=_fitted(), calibration=scores)
        data = json.dumps(NOTEBOOK).encode()
        kept = made.archive.put(data, day=run.day, job="lesson", run=run.id, name="executed.ipynb")
        run.notebook(kept, logical=notebook_hash(data))
    return made


def _flip(path, at=-20):
    """Flip one bit of one byte of a file."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def _sql(path, statement):
    with sqlite3.connect(path) as db:
        db.execute(statement)


def test_everything_holds(source):
    links = chain(source)
    assert summary(links) == f"all {len(links)} links hold"
    assert {"ledger", "trial", "equity", "numbers", "frame", "model", "notebook"} <= {
        link.kind for link in links
    }


@pytest.mark.parametrize(
    ("pattern", "kind", "words"),
    [
        ("main-fold-0-estimator.skops", "model", "fold-0-estimator.skops: SHA-256 must be"),
        ("main-fold-0-calibrator.skops", "model", "fold-0-calibrator.skops: SHA-256 must be"),
        ("main-equity.parquet", "frame", "equity.parquet: SHA-256 must be"),
        ("executed.ipynb", "notebook", "executed.ipynb: SHA-256 must be"),
    ],
)
def test_a_flipped_byte_in_the_archive(source, pattern, kind, words):
    _flip(next((source.folder / "archive").rglob(pattern)))
    broken = [link for link in chain(source) if not link.ok]
    assert [link.kind for link in broken] == [kind]
    assert words in broken[0].words


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("UPDATE equity SET costs = 1.0 WHERE ts_known = (SELECT min(ts_known) FROM equity)", "equity", "2013-01-01: costs is 1.0"),
        ("DELETE FROM equity WHERE ts_known = (SELECT max(ts_known) FROM equity)", "equity", "119 rows, archived are 120"),
        ("UPDATE metrics SET value = 9 WHERE name = 'sharpe'", "numbers", "hash of the metrics"),
        ("UPDATE calibration SET brier = 0.1 WHERE fold = 0", "numbers", "brier of fold 0, raw must be 0.2, got 0.1"),
        ("UPDATE trials SET parameters = '{\"span\":21}'", "trial", "parameters must be {'span': 20}"),
        ("UPDATE artifacts SET sha256 = 'ab' WHERE name = 'features.parquet'", "frame", "SHA-256 in the warehouse must be"),
    ],
)  # fmt: skip
def test_a_changed_row_in_the_warehouse(source, statement, kind, words):
    _sql(source.folder / "warehouse.db", statement)
    broken = [link for link in chain(source) if not link.ok]
    assert kind in {link.kind for link in broken}
    assert any(words in link.words for link in broken), broken


def test_a_changed_ledger_row_is_named_first(source):
    with sqlite3.connect(source.folder / "ledger.db") as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE entries SET body = replace(body, 'a trend', 'a tremd') WHERE seq = 1")
    links = chain(source)
    assert links[0].kind == "ledger"
    assert "ledger entry 1" in links[0].words
    assert summary(links).split("first: ")[1].startswith("ledger chain: ledger entry 1")


@pytest.mark.parametrize("calibrator", [Identity(), Platt(), Beta(), Isotonic()])
def test_calibrators_open_without_running_code(calibrator):
    rng = np.random.default_rng(2)
    p = rng.uniform(size=400)
    kept = model_artifact("c.skops", calibrator.fit(p, (rng.uniform(size=400) < p).astype(int)))
    assert predictions_hash(read_model(kept.data), None) == kept.logical


def test_boosted_and_forest_models_open_and_foreign_functions_do_not():
    import os

    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.preprocessing import FunctionTransformer

    features = _features()
    x = features.select("fast", "slow").to_numpy()
    y = (x[:, 0] > 0).astype(int)
    for model in (HistGradientBoostingClassifier(max_iter=5), RandomForestClassifier(5, random_state=0)):
        kept = model_artifact("m.skops", model.fit(x, y), features=features)
        assert predictions_hash(read_model(kept.data), features) == kept.logical
    import skops.io

    with pytest.raises(IntegrityError, match=r"needs the type '.*system'"):
        read_model(skops.io.dumps(FunctionTransformer(os.system)))


def _again(source):
    who = Context(Principal("quant7", ("quant",)))
    return Runs(warehouse=source.warehouse, archive=source.archive, ledger=source.ledger, context=who)


def test_a_strategy_that_is_logged_in_steps_holds(source):
    with _again(source).start("in steps", job="lesson") as run:
        run.log(result=_equity(), metrics={"hit_rate": 0.5})
        run.log(features=_features(), metrics={"edge": 0.01}, artifacts={"note.txt": b"ok"})
        run.log(strategy="other", result=_equity().with_columns(pl.col("net") * 2))
        assert summary(chain(source, run.id)).startswith("all")  # while it is still at work
    assert summary(chain(source, run.id)).startswith("all")
    _sql(source.folder / "warehouse.db", "DELETE FROM metrics WHERE name = 'edge'")
    broken = [link for link in chain(source, run.id) if not link.ok]
    assert {link.kind for link in broken} == {"record", "numbers"}


def test_rows_that_changed_after_the_end_are_never_made_good(source):
    """A sweep completes what a dead process owed; it does not bless what was changed behind its back."""
    _sql(source.folder / "warehouse.db", "UPDATE metrics SET value = 9 WHERE name = 'sharpe'")
    _sql(source.folder / "warehouse.db", f"UPDATE trials SET process = '{DEAD}'")
    _again(source).sweep()
    assert any("hash of the metrics" in link.words for link in chain(source) if not link.ok)


@pytest.mark.parametrize("when", ["before", "after"])
def test_rows_of_a_run_at_work_are_not_called_strangers(source, when):
    """The line follows the rows; in between, and after a kill in between, nobody is accused."""
    runs = _again(source)
    runs.start("at work", job="lesson")
    with source.warehouse.writing() as w:
        trial = source.warehouse.rows("trials", title="at work")[0]["id"]
        w.add("metrics", [{"name": "edge", "value": 0.1}], within={"trial": trial, "strategy": "main"})
    if when == "after":
        _sql(source.folder / "warehouse.db", f"UPDATE trials SET process = '{DEAD}' WHERE id = '{trial}'")
        runs.sweep()
        words = [link.words for link in chain(source) if not link.ok]
        assert all("provenance must be" in w for w in words)  # only what this test did to the process
        return
    assert summary(chain(source)).startswith("all")
