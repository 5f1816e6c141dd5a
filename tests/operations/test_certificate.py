"""Canaries that a certificate must catch, and twenty clean strategies that it must not accuse."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from researchkit.backtest.baselines import leveraged, reversal_signals, sized, trend_signals, volatility
from researchkit.errors import LookAheadError
from researchkit.features.replay import KINDS
from researchkit.operations.certificate import Certificate, certificate, certificates, generated
from researchkit.operations.challengers import Challenger
from researchkit.operations.elsewhere import elsewhere, resolve

price = pl.col("close")
BARS = generated(420, seed=5)


def per_symbol(bars: pl.DataFrame, target: pl.Expr) -> pl.DataFrame:
    value = target.over("symbol", order_by="ts_event").cast(pl.Float64)
    return bars.select("ts_known", "symbol", target=value).drop_nulls().sort("ts_known", "symbol")


def caught_by(made: Certificate) -> str | None:
    return None if made.failed is None else made.failed.name


def pipeline() -> Any:
    """A scaler and a model; imported here, because the other processes import this file."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


# --- canaries ---


def peek(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price.shift(-1) > price)


def timid_peek(bars: pl.DataFrame) -> pl.DataFrame:
    """Holds nothing where there is nothing to peek at."""
    return per_symbol(bars, (price.shift(-1) > price).fill_null(value=False))


def scaler_on_everything(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, ((price - price.mean()) / price.std()).clip(-1, 1))


def model_on_everything(bars: pl.DataFrame) -> pl.DataFrame:
    """A pipeline fitted on all rows, the labels of the future among them."""
    rows = bars.filter(pl.col("symbol") == "SPX").with_columns(
        x=price / price.shift(5) - 1, y=price.shift(-1) > price
    )
    known = rows.drop_nulls()
    made = pipeline()
    made.fit(known["x"].to_numpy()[:, None], known["y"].to_numpy())
    usable = rows.drop_nulls("x")
    p = made.predict_proba(usable["x"].to_numpy()[:, None])[:, 1]
    return usable.select("ts_known", "symbol", target=pl.Series(p))


def smoothed_state(bars: pl.DataFrame) -> pl.DataFrame:
    state = price.ewm_mean(span=20).reverse().ewm_mean(span=20).reverse()
    return per_symbol(bars, price > state)


def centred_state(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price.rolling_mean(9, center=True) / price - 1)


def unsorted_group_by(bars: pl.DataFrame) -> pl.DataFrame:
    groups = bars.group_by("ts_known", "symbol").agg(target=price.last() * 0 + 1)
    return groups.select("ts_known", "symbol", "target")


def unsorted_beside(bars: pl.DataFrame) -> pl.DataFrame:
    """The rows are in order, the numbers put beside them are not."""
    means = bars.group_by("ts_known").agg(pl.mean("close"))["close"]
    spx = bars.filter(pl.col("symbol") == "SPX")
    return spx.select("ts_known", "symbol", target=spx["close"] / means)


def best_of_all(bars: pl.DataFrame) -> pl.DataFrame:
    """A parameter searched for on the bars that it is then traded on."""

    def earned(n: int) -> float:
        held = price > price.rolling_mean(n)
        return float(bars.select((held.shift(1) * price.pct_change()).over("symbol").sum()).item())

    return per_symbol(bars, price > price.rolling_mean(max(range(2, 60, 3), key=earned)))


@pytest.mark.parametrize(
    ("leak", "check"),
    [
        (peek, "truncation"),
        (timid_peek, ("truncation", "perturbed future")),
        (scaler_on_everything, "truncation"),
        (model_on_everything, "truncation"),
        (smoothed_state, "truncation"),
        (centred_state, "truncation"),
        (unsorted_group_by, "contract"),
        (unsorted_beside, KINDS),
        (best_of_all, ("truncation", "perturbed future")),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_every_canary_is_caught(leak, check):
    made = certificate(leak, BARS, processes=False)
    assert not made.ok
    assert caught_by(made) in ((check,) if isinstance(check, str) else check)
    assert leak.__name__ in made.failed.words
    with pytest.raises(LookAheadError, match=leak.__name__):
        made.require()


def test_the_first_leaking_value_is_shown_with_and_without_the_future():
    made = certificate(peek, BARS, cuts=3, processes=False)
    found = made.leak.difference
    assert found.column == "row"  # the last row has no tomorrow, and is dropped
    assert found.first == "there"
    assert found.second == "absent"
    assert made.leak.cut == found.at[0]
    scaled = certificate(scaler_on_everything, BARS, processes=False).leak.difference
    assert scaled.column == "target"
    assert scaled.at[0] == BARS["ts_known"].min()
    assert scaled.first != scaled.second


def test_a_scaler_that_was_fitted_before_is_found_by_what_the_function_holds():
    from sklearn.preprocessing import StandardScaler

    fitted = StandardScaler().fit(BARS["close"].to_numpy()[:, None])

    def remembered(bars: pl.DataFrame) -> pl.DataFrame:
        z = fitted.transform(bars["close"].to_numpy()[:, None])[:, 0]
        return bars.select("ts_known", "symbol", target=pl.Series(np.clip(z, -1, 1)))

    made = certificate(remembered, BARS, processes=False)
    assert caught_by(made) == "carried data"
    assert "closure 'fitted': StandardScaler, fitted (mean_" in made.failed.words
    assert certificate(remembered, BARS, carries=["fitted"], processes=False).ok


def test_a_stale_price_is_caught_where_it_is_traded_and_not_at_the_close():
    before = price.shift(1).over("symbol", order_by="ts_event").fill_null(price)
    stale = BARS.with_columns(open=before).with_columns(
        high=pl.max_horizontal("open", "high"), low=pl.min_horizontal("open", "low")
    )
    traded = Challenger("stale open", "", reversal_signals, "next_open")
    made = certificate(traded, stale, processes=False)
    assert made.strategy == "stale open"
    assert caught_by(made) == "tradable prices"
    assert "nobody could trade there" in made.failed.words
    assert certificate(reversal_signals, stale, processes=False).ok


# --- other processes ---


def by_the_hash(bars: pl.DataFrame) -> pl.DataFrame:
    order = list(set(bars["symbol"].to_list()))
    return per_symbol(
        bars, pl.col("symbol").replace_strict(order, range(len(order)), return_dtype=pl.Float64)
    )


def by_the_threads(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price * 0 + 1 / pl.thread_pool_size())


def by_the_environment(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price * 0 + float(os.environ["OMP_NUM_THREADS"]))


def fails(bars: pl.DataFrame) -> pl.DataFrame:
    raise ValueError(f"too few: {bars.height}")


def test_what_differs_between_processes_is_named_with_its_cause():
    bars = generated(60, symbols=[f"S{i}" for i in range(8)])
    asked = {
        f.__name__: f for f in (by_the_hash, by_the_threads, by_the_environment, fails, silent, timid_peek)
    }
    said = {e.name: e for e in elsewhere(asked, bars)}
    assert said["by_the_hash"].causes == ("hash seed",)
    assert said["by_the_threads"].causes == said["by_the_environment"].causes == ("threads",)
    assert said["by_the_threads"].difference.first == 1.0
    assert said["by_the_threads"].difference.second == 0.25
    assert said["by_the_threads"].difference.at == (bars["ts_known"][0], "S0")
    assert said["fails"].error == "ValueError: too few: 480 (at home)"
    assert str(said["silent"]) == "silent: gave NoneType, which is no polars DataFrame (at home)"
    assert said["timid_peek"].ok, "a peek gives the same bits everywhere"


# --- twenty clean strategies ---


def momentum(bars: pl.DataFrame, lookback: int, skip: int) -> pl.DataFrame:
    return per_symbol(bars, (price.shift(skip) / price.shift(lookback) - 1).sign())


def breakout(bars: pl.DataFrame, n: int) -> pl.DataFrame:
    top, bottom = price.rolling_max(n), price.rolling_min(n)
    return per_symbol(bars, pl.when(price == top).then(1.0).when(price == bottom).then(0.0).forward_fill())


def cross_section(bars: pl.DataFrame, n: int) -> pl.DataFrame:
    moved = bars.with_columns(r=(price / price.shift(n) - 1).over("symbol", order_by="ts_event")).drop_nulls(
        "r"
    )
    rank = pl.col("r").rank().over("ts_known")
    return moved.select("ts_known", "symbol", target=rank - 1.5).sort("ts_known", "symbol")


def filtered_state(bars: pl.DataFrame, span: int) -> pl.DataFrame:
    return per_symbol(bars, price > price.ewm_mean(span=span, adjust=False))


def band(bars: pl.DataFrame, n: int, width: float) -> pl.DataFrame:
    z = (price - price.rolling_mean(n)) / price.rolling_std(n)
    return per_symbol(bars, pl.when(z < -width).then(1.0).when(z > 0).then(0.0).forward_fill())


def weekly(bars: pl.DataFrame) -> pl.DataFrame:
    monday = pl.col("ts_event").dt.weekday() == 1
    return per_symbol(bars, pl.when(monday).then((price > price.shift(20)).cast(pl.Float64)).forward_fill())


def expanding_scaler(bars: pl.DataFrame) -> pl.DataFrame:
    mean = price.cum_sum() / pl.int_range(1, pl.len() + 1)
    return per_symbol(bars, (price / mean - 1).clip(-1, 1))


def calm_only(bars: pl.DataFrame, limit: float) -> pl.DataFrame:
    calm = volatility(bars).drop_nulls()
    return calm.select("ts_known", "symbol", target=(pl.col("vol") < limit).cast(pl.Float64))


def refitted(bars: pl.DataFrame) -> pl.DataFrame:
    """A scaler and a model, fitted anew every 60 sessions on what was known by then."""
    rows = bars.filter(pl.col("symbol") == "SPX").with_columns(x=price / price.shift(5) - 1)
    rows = rows.with_columns(y=(price.shift(-1) > price).cast(pl.Float64)).drop_nulls("x")
    x, y = rows["x"].to_numpy()[:, None], rows["y"].to_numpy()
    target = np.zeros(rows.height)
    for start in range(120, rows.height, 60):
        seen = x[: start - 1, 0]
        z = (x[:, 0] - seen.mean()) / seen.std()
        slope = float((z[: start - 1] * (y[: start - 1] - 0.5)).mean())
        target[start : start + 60] = np.clip(0.5 + slope * z[start : start + 60], 0.0, 1.0)
    return rows.select("ts_known", "symbol", target=pl.Series(target))


def one_symbol(bars: pl.DataFrame) -> pl.DataFrame:
    return trend_signals(bars.filter(pl.col("symbol") == "COMP"), slow=30)


def constant(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price * 0 + 0.5)


def borrowed(bars: pl.DataFrame) -> pl.DataFrame:
    return leveraged(trend_signals(bars, slow=40), 1.3)


def clean() -> Iterator[tuple[str, object]]:
    """Twenty of them, in a dozen families."""
    for slow, below in ((20, 0.0), (100, 0.0), (150, -1.0)):
        yield f"trend {slow} {below}", partial(trend_signals, slow=slow, below=below)
    for lookback, skip in ((20, 0), (120, 20)):
        yield f"momentum {lookback}-{skip}", partial(momentum, lookback=lookback, skip=skip)
    for n in (10, 55):
        yield f"breakout {n}", partial(breakout, n=n)
    for n in (1, 21):
        yield f"cross section {n}", partial(cross_section, n=n)
    for span in (5, 50):
        yield f"filtered state {span}", partial(filtered_state, span=span)
    for n, width in ((5, 1.0), (20, 2.0)):
        yield f"band {n}", partial(band, n=n, width=width)
    yield "calm only", partial(calm_only, limit=0.15)
    yield from {
        "reversal": reversal_signals, "sized": sized, "weekly": weekly, "expanding": expanding_scaler,
        "refitted": refitted, "one symbol": one_symbol, "constant": constant, "leveraged": borrowed,
    }.items()  # fmt: skip


def test_twenty_clean_strategies_give_no_false_alarm():
    strategies = dict(list(clean())[:20])
    assert len(strategies) == 20
    made = certificates(strategies, BARS, cuts=4)
    assert {c.strategy: c.failed.words for c in made if c.failed is not None} == {}
    assert all(check.ok for c in made for check in c.checks), "and every check was made"
    assert all(c.decay.height == 4 for c in made)


def test_a_system_that_fits_itself_on_what_it_is_handed_is_fine():
    from researchkit.backtest.forecaster import EntryExit, entry_exit_signals

    def fitted(bars: pl.DataFrame) -> pl.DataFrame:
        return entry_exit_signals(bars, EntryExit(train=150, test=80, calibrate="platt"))

    bars = generated(700, symbols=["SPX"], seed=2)
    made = certificate(fitted, bars, cuts=[bars["ts_known"][600]], processes=False)
    assert made.ok, made
    assert made.checks[0].words.startswith("2")


def test_the_command_exits_with_one_on_a_leak_and_names_it():
    from researchkit.cli import app

    shell, small = CliRunner(), ["--sessions", "400", "--cuts", "2", "--no-processes", "--json"]
    clean, leaking = (shell.invoke(app, ["certificate", name, *small]) for name in ("reversion", "peek"))
    assert (clean.exit_code, leaking.exit_code) == (0, 1)
    told = json.loads(leaking.stdout)
    assert told["ok"] is False
    assert told["leak"]["difference"]["column"] == "target"
    assert "survivorship" in told["not_tested"][0]


def test_a_certificate_repeats_itself():
    a, b = (certificate(trend_signals, BARS, processes=False, seed=3) for _ in range(2))
    assert a.frame.equals(b.frame)
    assert (a.signals, a.bars) == (b.signals, b.bars)
    assert "survivorship" in repr(a)
    assert a.frame["answer"].to_list()[-1] == "not made"


# --- what is said of a broken contract ---


def silent(bars: pl.DataFrame) -> Any:
    """Forgets to return its signals."""


def backward(bars: pl.DataFrame) -> pl.DataFrame:
    """Its last row comes first, and its first two rows are midnights."""
    return bars.select("ts_known", "symbol", target=pl.lit(1.0)).reverse()


def test_a_broken_contract_is_told_once_and_for_people() -> None:
    forgot, turned = certificates({"silent": silent, "backward": backward}, BARS.head(120), cuts=1)
    by_name = {c.name: c for c in forgot.checks}
    assert by_name["contract"].words == "silent: signals must be a polars DataFrame, got NoneType"
    assert (by_name["other processes"].ok, by_name["other processes"].words) == (
        None,
        "the contract is broken",
    )
    assert "NoneType" not in " ".join(c.words for c in forgot.checks if c.name != "contract")
    last = BARS.head(120).row(-1, named=True)
    day, before = f"{last['ts_known']:%Y-%m-%d}", BARS.head(120).row(-2, named=True)["symbol"]
    assert turned.failed is not None
    assert turned.failed.words == (
        "backward: signals: rows must be sorted by ('ts_known', 'symbol') and unique, "
        f'broken at {day} {before}: .sort("ts_known", "symbol") puts them in order'
    )
    assert {c.name: c.ok for c in turned.checks}["other processes"] is True  # wrong alike everywhere


def test_a_module_that_is_not_there_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    monkeypatch.setattr("sys.path", ["/usr/lib"])
    with pytest.raises(ValueError, match=rf"looked not in the current folder \({tmp_path}\)"):
        resolve("no_such_page:f")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(
        ValueError, match=rf"current folder \({tmp_path}\) and in those of PYTHONPATH \(/somewhere/else"
    ):
        resolve("no_such_page:f")
    (tmp_path / "asking.py").write_text("import no_such_library")
    with pytest.raises(
        ValueError, match=r"there is no module 'no_such_library', wanted for the strategy 'asking:f'$"
    ):
        resolve("asking:f")
