"""Labels and folds whose answers were worked out with pencil and paper."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from researchkit import frames
from researchkit.errors import LookAheadError
from researchkit.labels import combinatorial, walkforward
from researchkit.labels.barriers import ewma_volatility, outcomes
from researchkit.labels.metalabels import meta_labels
from researchkit.labels.outoffold import out_of_fold
from researchkit.labels.trendscan import trend_scans
from researchkit.labels.uniqueness import average_uniqueness

DAY = timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


def bars_of(rows: list[tuple[float, float, float, float]]) -> pl.DataFrame:
    """Open, high, low, close a day."""
    o, h, l, c = zip(*rows, strict=True)  # noqa: E741
    known = pl.col("ts_event") + DAY
    frame = pl.DataFrame(
        {"ts_event": [START + DAY * i for i in range(len(rows))], "symbol": "S", "open": o, "high": h, "low": l,
         "close": c, "volume": 1}
    )  # fmt: skip
    return frames.conform(frame.with_columns(ts_known=known, ts_published=known), frames.BARS)


def labels_of(lives: list[tuple[int, int]]) -> pl.DataFrame:
    """Labels from the first to the last session of each life."""
    frame = pl.DataFrame({
        "ts_known": [START + DAY * a for a, _ in lives], "symbol": "S", "ts_end": [START + DAY * b for _, b in lives],
        "label": [i % 2 for i in range(len(lives))], "weight": 1.0,
    })  # fmt: skip
    return frames.conform(frame, frames.LABELS)


def days(n: int) -> pl.Series:
    return pl.Series([START + DAY * i for i in range(n)], dtype=frames.INSTANT)


# --- barriers: entry at the close of bar 1, 100; target 110, stop 95, three bars to go ---


@pytest.mark.parametrize(
    ("after", "path", "touched", "bars", "ret"),
    [
        (
            [(100, 104, 97, 102), (103, 110.5, 99, 109)],
            "range",
            "target",
            2,
            0.10,
        ),  # the high is above 110, and 110 is paid
        ([(100, 104, 97, 102), (103, 110.5, 99, 109), (109, 109, 101, 102)], "close", "time", 3, 0.02),
        ([(101, 111, 94, 105)], "range", "both", 1, -0.05),  # both in one bar: the stop
        ([(90, 91, 88, 89)], "range", "stop", 1, -0.10),  # a gap through the stop fills at the open
        ([(120, 125, 118, 121)], "range", "target", 1, 0.10),  # a gap through the target is paid no more
        ([(120, 125, 118, 121)], "close", "target", 1, 0.21),  # by closes, it is what the close says
        (
            [(100, 105, 96, 101), (101, 104, 96, 100)],
            "range",
            None,
            0,
            0.0,
        ),  # the bars end before the trade: no label
    ],
)
def test_a_trade_ends_as_on_paper(after, path, touched, bars, ret):
    flat = (100.0, 100.0, 100.0, 100.0)
    made = bars_of([flat, flat, *after])
    asked = made.select("ts_known", "symbol").head(1).with_columns(sigma=0.05)
    table = outcomes(made, asked, up=2, down=1, horizon=3, vol="sigma", path=path)
    if touched is None:
        assert table.is_empty()
        return
    row = table.row(0, named=True)
    assert (row["touched"], row["bars"], row["label"]) == (touched, bars, int(touched == "target"))
    assert row["ret"] == pytest.approx(ret)
    assert row["ts_end"] == made["ts_known"][1 + bars]


def test_the_yardstick_is_that_of_the_decision_whatever_comes_later():
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 60)))
    made = bars_of([(c, c, c, c) for c in close])
    wild = made.with_columns(
        pl.when(pl.int_range(pl.len()) > 40).then(pl.col(n) * 3).otherwise(pl.col(n)).alias(n)
        for n in ("open", "high", "low", "close")
    )
    asked = made.select("ts_known", "symbol")[40:41]
    one, two = (outcomes(b, asked, up=1, down=1, horizon=2)["sigma"].item() for b in (made, wild))
    assert one == two == ewma_volatility(made)["sigma"][40]


def test_a_decision_on_the_last_bar_is_not_labelled_and_the_one_before_is_censored():
    made = bars_of([(100, 100, 100, 100)] * 6)
    asked = made.select("ts_known", "symbol").with_columns(sigma=0.05)
    table = outcomes(made, asked, up=1, down=1, horizon=2, vol="sigma")
    assert table["ts_known"].to_list() == made["ts_known"][:3].to_list()  # filled at 1, 2, 3; over at 3, 4, 5
    assert set(table["touched"]) == {"time"}


def test_a_meta_label_is_right_where_the_short_fell():
    made = bars_of([(100, 100, 100, 100)] * 30 + [(c, c, c, c) for c in (101, 99, 100, 90, 80, 80, 80)])
    signals = made.select("ts_known", "symbol", target=pl.lit(-1.0))[31:33]
    table = meta_labels(made, signals, up=1, down=1, horizon=2)
    assert table["label"].to_list() == [1, 1]


def test_a_trend_has_the_t_value_of_ordinary_least_squares():
    close = [100.0, 100.0, 101.0, 103.0, 102.0]
    made = bars_of([(c, c, c, c) for c in close])
    asked = made.select("ts_known", "symbol").head(1)
    row = trend_scans(made, asked, shortest=3, longest=3).row(0, named=True)
    # x = 0 1 2 3, y = 100 101 103 102: slope 0.8, residuals -0.3 -0.1 1.1 -0.7, their squares 1.8
    assert row["t_value"] == pytest.approx(0.8 / np.sqrt(1.8 / 2 / 5))
    assert row["label"] == 1


# --- uniqueness and folds ---


def test_three_overlapping_labels_weigh_as_on_paper():
    # bars 0-2, 2-3, 4-5: only bar 2 is shared
    assert average_uniqueness([0, 2, 4], [2, 3, 5]).tolist() == pytest.approx([(1 + 1 + 0.5) / 3, 0.75, 1.0])


def test_six_groups_two_tested_make_fifteen_splits_and_five_paths():
    made = combinatorial.combinatorial(days(60), groups=6, tests=2)
    assert (len(made), len(made.paths)) == (15, 5)
    for path in made.paths:
        assert all(group in made[split].tests for group, split in enumerate(path))
    used = [(split, group) for path in made.paths for group, split in enumerate(path)]
    assert len(used) == len(set(used)) == 15 * 2


def test_purge_and_embargo_on_both_sides_as_on_paper():
    # 30 sessions, 3 groups of 10, each label lives two sessions; test the middle one, 10 to 19
    labels = labels_of([(i, i + 2) for i in range(28)])
    made = combinatorial.combinatorial(days(30), groups=3, tests=1, embargo=3)
    kept = combinatorial.select_train(labels, made[1], labels, made)["ts_known"].to_list()
    position = [(t - START).days for t in kept]
    # before: 8 ends on 10, which is tested; after: the last test label ends on 21, three more are under embargo
    assert position == [*range(8), 25, 26, 27]
    proof = made.audit(labels).filter(pl.col("split") == 1).row(0, named=True)
    assert (proof["before"], proof["after"]) == (1, 4)


@pytest.mark.parametrize("planted", [8, 19, 24])
def test_an_audit_finds_the_one_label_that_was_planted(planted):
    labels = labels_of([(i, i + 2) for i in range(28)])
    made = combinatorial.combinatorial(days(30), groups=3, tests=1, embargo=3)
    rows = [combinatorial.select_train(labels, s, labels, made) for s in made]
    rows[1] = pl.concat([rows[1], labels[planted : planted + 1]])
    with pytest.raises(LookAheadError, match=r"split 1: the label of S decided .*\(1 such labels\)"):
        made.audit(labels, rows)


def test_one_long_label_is_purged_and_named_by_the_audit():
    labels = labels_of([(i, 25 if i == 3 else i + 1) for i in range(28)])
    folds = walkforward.anchored(days(30), train=10, test=10, purge=2)
    kept = walkforward.select_train(labels, folds[0], labels)["ts_known"].to_list()
    assert START + DAY * 3 not in kept
    assert len(kept) == 9
    with pytest.raises(
        LookAheadError, match=r"decided 2020-01-04 ended 2020-01-26.*purge at least 22 sessions"
    ):
        folds.audit(labels)


def test_a_fold_knows_nothing_of_what_comes_after_it_and_its_scaler_neither():
    """Other features in the test and after it: the same fit, so the same forecast of an untouched row."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = labels_of([(i, i + 1) for i in range(58)])
    folds = walkforward.anchored(days(60), train=20, test=20, purge=2)
    x = np.random.default_rng(0).normal(size=60)
    shown = pl.DataFrame({"ts_known": days(60), "symbol": "S", "x": x})
    other = shown.with_columns(
        x=pl.when(pl.int_range(60) > 22).then(pl.col("x") * 100 + 7).otherwise(pl.col("x"))
    )
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    one, two = (out_of_fold(pipeline, f, labels, folds).row(0, named=True) for f in (shown, other))
    assert one["ts_known"] == START + DAY * 22
    assert one == two
