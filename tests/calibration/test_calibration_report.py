"""The report: what the warehouse, the figures and the record get."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from researchkit import frames
from researchkit.calibration import scores, suite
from researchkit.errors import SchemaError

START = datetime(2001, 1, 1, tzinfo=UTC)


def made(n=600, seed=0, warm=200):
    rng = np.random.default_rng(seed)
    chance = np.round(rng.uniform(0.3, 0.7, n), 3)
    key = {"ts_known": [START + timedelta(days=i // 2) for i in range(n)], "symbol": ["A", "B"] * (n // 2)}
    ends = [t + timedelta(days=3) for t in key["ts_known"]]
    y = pl.DataFrame({**key, "ts_end": ends, "label": rng.random(n) < chance, "weight": 0.3})
    loud = 1 / (1 + (1 / chance - 1) ** 3)
    p = pl.DataFrame(
        {**key, "kind": "entry", "p_raw": loud, "p": chance, "fold": (np.arange(n) - warm) // 200}
    )
    return frames.conform(p[warm:], frames.PROBABILITIES), frames.conform(y, frames.LABELS)


def test_warehouse_frame():
    p, y = made()
    report = suite.report(p, y, resamples=20)
    assert report.frame.schema == pl.Schema(
        {"fold": pl.Int32, "stage": pl.String, "n": pl.Int64}
        | dict.fromkeys(("base_rate", "brier", "log_loss", "skill", "mcb", "dsc", "unc"), pl.Float64)
    )
    assert report.frame.select("fold", "stage").rows() == [
        (f, s) for f in (-1, 0, 1) for s in ("raw", "calibrated")
    ]
    assert report.table.equals(report.frame)
    assert report.folds == [0, 1]
    assert report.frame.filter(pl.col("fold") >= 0)["n"].sum() == 2 * 400


def test_skill_is_against_what_was_known_before_the_fold():
    p, y = made()
    report = suite.report(p, y, resamples=5)
    first = p.filter(pl.col("fold") == 1)
    past = y.filter(pl.col("ts_end") < first["ts_known"].min())["label"].mean()
    outcome = first.join(y, on=["ts_known", "symbol"])["label"].to_numpy()
    want = scores.brier_skill(first["p"].to_numpy(), outcome, base_rate=past)
    assert report.row("calibrated", 1)["skill"] == pytest.approx(want, abs=1e-15)
    changed = y.with_columns(  # outcomes of the test span that was scored must not move the reference
        label=pl.when(pl.col("ts_end") >= first["ts_known"].min())
        .then(1 - pl.col("label"))
        .otherwise("label")
    )
    assert suite.scored(p, changed)["past"].equals(suite.scored(p, y)["past"])


def test_figures_find_everything():
    report = suite.report(*made(), resamples=20)
    for fold in (-1, 0, 1):
        for stage in ("raw", "calibrated"):
            curve, bins = report.curve(stage, fold), report.histogram(stage, fold)
            assert curve.columns == ["fold", "stage", "p", "rate", "n", "low", "high"]
            assert curve["p"].is_sorted()
            assert curve["rate"].is_sorted()
            assert (curve["low"] <= curve["high"]).all()
            assert curve.null_count().sum_horizontal().item() == 0
            assert bins["n"].sum() == report.row(stage, fold)["n"]
            assert bins.height == 20
    assert report.tests.columns[2:] == [
        "mcb", "mcb_honest", "p_value", "sessions", "together", "bias", "bias_se",
    ]  # fmt: skip
    assert report.tests["mcb"].to_numpy() == pytest.approx(report.frame["mcb"].to_numpy(), abs=1e-12)


def test_curve_stays_small():
    rng = np.random.default_rng(0)
    n = 20_000
    p, y = made(n=n, warm=0)
    p = p.with_columns(p=pl.Series(rng.random(n)), fold=pl.lit(0, pl.Int32))
    report = suite.report(p, y, resamples=2)
    assert report.curve("calibrated").height < 400


def test_json_and_html_are_safe():
    p, y = made()
    report = suite.report(p.with_columns(kind=pl.lit("<script>")), y, resamples=5)
    body = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(body) == {"frame", "curves", "bins", "tests", "kind", "open", "level", "resamples", "words"}
    assert "<script>" not in report._repr_html_()
    assert "Calibration of" in repr(report)


def test_same_seed_same_report():
    p, y = made()
    a, b = (suite.report(p, y, resamples=20, seed=1) for _ in range(2))
    assert a.to_dict() == b.to_dict()
    assert suite.report(p, y, resamples=20, seed=2).curves.equals(a.curves) is False


def test_bad_input():
    p, y = made()
    two = frames.conform(pl.concat([p, p.with_columns(kind=pl.lit("exit"))]), frames.PROBABILITIES)
    with pytest.raises(ValueError, match=r"one kind of forecast, got \['entry', 'exit'\]"):
        suite.report(two, y)
    with pytest.raises(ValueError, match="label must be 0 or 1"):
        suite.report(p, y.with_columns(label=pl.col("label") * 2 - 1))
    with pytest.raises(ValueError, match="none of 400 forecasts has a label"):
        suite.report(p, y[:50])
    with pytest.raises(ValueError, match="p_raw must lie in"):
        suite.report(p.with_columns(p_raw=pl.col("p_raw") + 1), y)
    with pytest.raises(SchemaError, match="probabilities: column 'p' must hold null"):
        suite.report(p.with_columns(p=pl.lit(float("nan"))), y)
    with pytest.raises(SchemaError, match="labels: column 'ts_end' is missing"):
        suite.report(p, y.drop("ts_end"))
    with pytest.raises(ValueError, match="none of 0 forecasts"):
        suite.report(p[:0], y)


def test_an_assessment_is_plain_data_and_one_call_says_all():
    """Verdicts, numbers and bets travel with the report, and what was asked stands beside the answer."""
    from researchkit.calibration.verdict import NUMBERS, VERDICTS, assess

    found = assess(*made(), threshold=0.5, tolerance=0.1, width=0.2, resamples=20)
    body = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {"verdicts", "numbers", "bets", "curves", "words"} <= set(body)
    assert found.verdicts.schema == pl.Schema(VERDICTS)
    assert found.numbers.schema == pl.Schema(NUMBERS)
    asked = found.verdicts.filter(pl.col("question") == "near the threshold").to_dicts()
    assert [(a["threshold"], a["width"], a["tolerance"]) for a in asked] == [(0.5, 0.2, 0.1)] * 2
    for row, words in zip(asked, [w for w in found.words if "within 0.2 of 0.5" in w], strict=True):
        assert row["verdict"] in words
        inside = row["low"] > -0.1 and row["high"] < 0.1
        assert (row["verdict"] == "pass") == inside
