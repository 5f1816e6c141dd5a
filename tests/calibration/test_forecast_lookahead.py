"""Forecasts must not change when the future does, and a planted leak must be noticed by both lines of defence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from researchkit import frames
from researchkit.calibration import forecast
from researchkit.calibration.forecast import EntryModel, fit_folds, fit_predict
from researchkit.errors import LookAheadError
from researchkit.features.replay import replay
from researchkit.labels.barriers import triple_barrier
from researchkit.labels.walkforward import anchored, rolling

START = datetime(1990, 1, 1, tzinfo=UTC)
SESSIONS = 520


def bars(seed=0):
    """Two symbols whose volatility and drift wander, so that calibration really changes from fold to fold."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in ("A", "B"):
        drift = np.convolve(rng.normal(size=SESSIONS + 60), 0.95 ** np.arange(60), mode="valid")[:SESSIONS]
        close = 100 * np.exp(np.cumsum(0.002 * drift + 0.01 * rng.normal(size=SESSIONS)))
        when = [START + timedelta(days=i) for i in range(SESSIONS)]
        parts.append(
            pl.DataFrame({"ts_event": when, "symbol": symbol, "close": close}).with_columns(
                ts_known=pl.col("ts_event") + timedelta(hours=22),
                ts_published=pl.col("ts_event") + timedelta(hours=22),
                open=pl.col("close") * 0.999, high=pl.col("close") * 1.002, low=pl.col("close") * 0.998,
                volume=pl.lit(1000),
            )
        )  # fmt: skip
    return frames.conform(pl.concat(parts), frames.BARS)


def features(b):
    past = pl.col("close") / pl.col("close").shift(10).over("symbol", order_by="ts_event") - 1
    fast = pl.col("close") / pl.col("close").shift(2).over("symbol", order_by="ts_event") - 1
    return b.select("ts_known", "symbol", slow=past, fast=fast).sort("ts_known", "symbol")


def pipeline(b, *, calibrate="auto", cut=anchored):
    x = features(b)
    y = triple_barrier(b, x.select("ts_known", "symbol"), up=2.0, down=2.0, horizon=10)
    return fit_predict(EntryModel(), x, y, cut(x, train=200, test=80, purge=11), calibrate=calibrate)


CUTS = [START + timedelta(days=d, hours=22) for d in (215, 300, 377, 455)]


@pytest.mark.parametrize("calibrate", ["auto", "platt", "beta", "isotonic", "none"])
def test_replay_from_bars_to_probabilities(calibrate):
    def probabilities(b):
        return pipeline(b, calibrate=calibrate)

    report = replay(probabilities, bars(), cuts=CUTS[:2] if calibrate != "auto" else CUTS)
    assert report.cells > 0


def test_replay_with_rolling_folds():
    def probabilities(b):
        return pipeline(b, cut=rolling)

    assert replay(probabilities, bars(), cuts=CUTS[1:3]).cells > 0


def test_the_replay_would_notice_a_calibrator_that_reads_the_answers(monkeypatch):
    """Planted: the calibrator sees the whole record of labels, whenever they ended."""
    sight = {}

    def everything(record, labels, when):
        rows = (
            sight["features"].join(labels, on=["ts_known", "symbol"], how="inner").sort("ts_known", "symbol")
        )
        return rows.with_columns(p_raw=pl.col("p_raw"))

    def probabilities(b):
        monkeypatch.setattr(forecast, "known_by", forecast_known_by)
        x = features(b)
        y = triple_barrier(b, x.select("ts_known", "symbol"), up=2.0, down=2.0, horizon=10)
        folds = anchored(x, train=200, test=80, purge=11)
        sight["features"] = fit_folds(EntryModel(), x, y, folds, calibrate="none").record
        monkeypatch.setattr(forecast, "known_by", everything)
        return fit_predict(EntryModel(), x, y, folds, calibrate="platt")

    forecast_known_by = forecast.known_by
    with pytest.raises(LookAheadError, match="its calibrator learned from a label that ended"):
        probabilities(bars())
    monkeypatch.setattr(forecast, "_prove", lambda fit: None)
    with pytest.raises(LookAheadError, match="column 'p' at"):
        replay(probabilities, bars(), cuts=CUTS[1:2])


def test_one_label_too_many_is_noticed(monkeypatch):
    """The smallest leak: outcomes known one session after the fold began."""
    real = forecast.known_by
    monkeypatch.setattr(forecast, "known_by", lambda r, y, when: real(r, y, when + timedelta(days=1)))
    with pytest.raises(
        LookAheadError,
        match=r"its calibrator learned from a label that ended 1990-.*, after the test began 1990-",
    ):
        pipeline(bars())


def test_a_model_that_trains_on_late_labels_is_noticed(monkeypatch):
    def late(frame, fold, labels):
        inside = pl.col("ts_known").is_between(*fold.test, closed="left")
        return frame.filter((pl.col("ts_known") < fold.test[0]) | inside)

    monkeypatch.setattr(forecast, "select_train", late)
    with pytest.raises(LookAheadError, match="its model learned from a label that ended"):
        pipeline(bars())


def test_what_a_fold_learned_from_was_known():
    b = bars()
    x = features(b)
    y = triple_barrier(b, x.select("ts_known", "symbol"), up=2.0, down=2.0, horizon=10)
    folds = anchored(x, train=200, test=80, purge=11)
    folds.audit(y)
    fit = fit_folds(EntryModel(), x, y, folds)
    for m, fold in zip(fit.models, folds, strict=True):
        assert m.train_end < fold.test[0]
        assert m.oof_end <= fold.test[0]
        seen = fit.record.join(y, on=["ts_known", "symbol"]).filter(pl.col("ts_end") <= fold.test[0])
        assert m.oof_rows == seen.filter(pl.col("source") < m.number).height
    assert fit.record["source"].unique().sort().to_list() == [-1, *range(len(folds))]
    test = fit.record.filter(pl.col("source") >= 0).sort("ts_known", "symbol")
    assert test["p_raw"].equals(fit.probabilities["p_raw"])
    assert fit.folds["fold"].dtype == pl.Int32


def test_inner_forecasts_are_out_of_fold(monkeypatch):
    """Every inner forecast comes from a model whose labels had ended before it was made."""
    seen = []
    real = forecast._fit

    def watch(model, rows, columns, *, seed):
        seen.append(rows["ts_end"].max())
        return real(model, rows, columns, seed=seed)

    monkeypatch.setattr(forecast, "_fit", watch)
    b = bars()
    x = features(b)
    y = triple_barrier(b, x.select("ts_known", "symbol"), up=2.0, down=2.0, horizon=10)
    folds = anchored(x, train=200, test=80, purge=11)
    fit = fit_folds(EntryModel(inner=3), x, y, folds)
    inner = fit.record.filter(pl.col("source") == -1)["ts_known"].unique().sort()
    assert len(seen) == 3 + len(folds)
    for k in range(3):
        part = inner[len(inner) * k // 3]
        assert seen[k] <= part
    assert inner.max() < folds[0].train[1]


def test_column_order_and_missing_rows_do_not_matter():
    b = bars()
    x = features(b)
    y = triple_barrier(b, x.select("ts_known", "symbol"), up=2.0, down=2.0, horizon=10)
    folds = anchored(x, train=200, test=80, purge=11)
    p = fit_predict(EntryModel(), x, y, folds)
    assert p.equals(fit_predict(EntryModel(), x.select("ts_known", "symbol", "fast", "slow"), y, folds))
    blind = x.with_columns(
        pl.when(pl.int_range(pl.len()) == x.height - 1)
        .then(None)
        .otherwise(pl.col("slow", "fast"))
        .name.keep()
    )
    assert fit_predict(EntryModel(), blind, y, folds).height == p.height - 1
