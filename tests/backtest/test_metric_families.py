"""Each family of measures against another library, against itself, and at its edges."""

import ast
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.backtest import (
    Costs,
    capacity,
    charges,
    drawdowns,
    exposure,
    fills,
    metrics,
    returns,
    risk,
    trades,
)
from researchkit.backtest.market import Market

PAGE = Path(__file__).parents[2] / "nbs" / "results" / "08_empyrical.ipynb"


def series() -> tuple[np.ndarray, np.ndarray]:
    """The series "20260101" of the page, and its market."""
    rng = np.random.default_rng(20260101)
    net = 0.0004 + 0.01 * rng.standard_t(5, 1260) / (5 / 3) ** 0.5
    return net, 0.0003 + 0.012 * rng.standard_normal(1260)


def market(seed, sessions=80, symbols=("AAA", "BBB"), volume=10**6):
    """Random bars without holes."""
    rng = np.random.default_rng(seed)
    days = [datetime(2001, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(sessions)]
    ends, parts = [d + timedelta(days=1) for d in days], []
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, sessions)))
        prices = dict.fromkeys(("open", "high", "low", "close"), close)
        stamps = {"ts_event": days, "symbol": symbol, "ts_known": ends, "ts_published": ends}
        parts.append(pl.DataFrame(stamps | prices | {"volume": volume}))
    return frames.conform(pl.concat(parts), frames.BARS)


def traded(seed, share=0.3, **costs):
    """A random strategy's result on a random market, and the bars."""
    bars, rng = market(seed), np.random.default_rng(seed + 1)
    rows = bars.select("ts_known", "symbol").filter(pl.Series(rng.random(bars.height) < share))
    targets = pl.Series(rng.choice([-1.0, -0.5, 0.0, 0.3, 1.0], rows.height), dtype=pl.Float64)
    signals = frames.conform(rows.with_columns(target=targets), frames.SIGNALS)
    return fills.simulate(bars, signals, costs=Costs(**costs)), bars


def stated() -> dict[str, float]:
    """What empyrical said, as the page of results has it."""
    cells = json.loads(PAGE.read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if c["id"] == "emp0values")
    return ast.literal_eval(source.partition("=")[2].strip())


def test_where_definitions_agree_the_numbers_agree():
    net, index = series()
    theirs = stated()
    ours = {
        "cum_returns_final": returns.compounded_level(net)[-1] - 1,
        "annual_return": returns.compounded_annual(net),
        "annual_volatility": risk.volatility(net),
        "sharpe_ratio": risk.sharpe(net).value,
        "sortino_ratio": risk.sortino(net),
        "downside_risk": risk.downside_deviation(net),
        "max_drawdown": drawdowns.compounded_drawdown(net).min(),
        "calmar_ratio": drawdowns.compounded_calmar(net),
        "omega_ratio": risk.omega(net),
        "stability_of_timeseries": risk.stability(net),
        "tail_ratio": risk.tail_ratio(net),
        "value_at_risk": -risk.value_at_risk(net),
        "conditional_value_at_risk": -risk.expected_shortfall(net),
        "beta": risk.market(net, index)["beta"],
    }
    assert set(theirs) - set(ours) == {"version", "alpha", "excess_sharpe"}
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], rel=1e-12), name


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_round_trips_add_up_to_the_account(seed):
    result, _ = traded(seed, bps=2.0)
    last = dict(
        result.positions.sort("ts_known")
        .group_by("symbol", maintain_order=True)
        .agg(pl.col("price").last())
        .iter_rows()
    )
    trips = trades.round_trips(result.fills, marks=last)
    assert trips["net"].sum() == pytest.approx(result.equity["net"].sum() * result.capital, abs=1e-4)
    assert trips["costs"].sum() == pytest.approx(result.equity["costs"].sum(), abs=1e-6)
    assert (trips["quantity"] > 0).all()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ratios=st.lists(st.sampled_from([0.1, 0.5, 1.5, 2.0, 3.0, 20.0]), min_size=1, max_size=4),
)
def test_round_trips_follow_splits(seed, ratios):
    """The same trades and money as without splits, told in other shares: prices fall by the ratio, nothing is earned."""
    rng, bars = np.random.default_rng(seed), market(seed, sessions=40)
    days = sorted(rng.choice(bars["ts_event"].unique().sort()[1:].to_list(), len(ratios)))
    kinds = {
        "ts_event": frames.INSTANT,
        "symbol": pl.String,
        "kind": pl.String,
        "ratio": pl.Float64,
        "amount": pl.Float64,
        "ts_pay": frames.INSTANT,
    }
    rows = [(day, "AAA", "split", ratio, None, None) for day, ratio in zip(days, ratios, strict=True)]
    actions, factor = pl.DataFrame(rows, schema=kinds, orient="row"), pl.lit(1.0)
    for day, ratio in zip(days, ratios, strict=True):
        after = (pl.col("ts_event") >= pl.lit(day).cast(frames.INSTANT)) & (pl.col("symbol") == "AAA")
        factor = factor * pl.when(after).then(ratio).otherwise(1.0)
    cut = bars.with_columns(pl.col("open", "high", "low", "close") / factor)
    wish = bars.select("ts_known", "symbol").filter(pl.Series(rng.random(bars.height) < 0.4))
    wish = wish.with_columns(target=pl.Series(rng.choice([-1.0, 0.0, 0.3, 1.0], wish.height)))
    terms = Costs(bps=1.0, half_spread_bps=0.5)
    plain, result = (
        fills.simulate(b, wish, costs=terms, market=m)
        for b, m in ((bars, None), (cut, Market(actions=actions)))
    )
    one, two = (
        trades.round_trips(r.fills, marks=_last(r), splits=trades.splits_of(r)) for r in (plain, result)
    )
    assert two.select("symbol", "side", "opened", "closed", "fills").equals(
        one.select("symbol", "side", "opened", "closed", "fills")
    )
    for name in ("gross", "costs", "net"):
        assert two[name].to_list() == pytest.approx(one[name].to_list(), rel=1e-9, abs=1e-6)
    notional = (one["quantity"] * one["entry"]).to_list()
    assert (two["quantity"] * two["entry"]).to_list() == pytest.approx(notional, rel=1e-9)
    families = metrics.table(result).filter(pl.col("family") == "trade")["value"].to_list()
    assert families == pytest.approx(
        metrics.table(plain).filter(pl.col("family") == "trade")["value"].to_list(), rel=1e-9
    )


def _last(result):
    """The last mark of each symbol."""
    rows = (
        result.positions.sort("ts_known").group_by("symbol", maintain_order=True).agg(pl.col("price").last())
    )
    return dict(rows.iter_rows())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_charges_add_up_to_the_account(seed):
    result, _ = traded(seed, borrow_rate=0.05)
    assert charges.by_kind(result)["money"].sum() == pytest.approx(result.equity["costs"].sum(), rel=1e-9)
    assert charges.by_symbol(result)["total"].sum() == pytest.approx(
        charges.by_year(result)["total"].sum(), rel=1e-9
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 8))
def test_scaling_scales(seed, factor):
    net = 0.01 * np.random.default_rng(seed).standard_normal(60)
    assert risk.volatility(factor * net) == pytest.approx(factor * risk.volatility(net), rel=1e-12)
    assert risk.sharpe(factor * net).value == pytest.approx(risk.sharpe(net).value, rel=1e-9)
    assert drawdowns.additive_drawdown(factor * net).min() == pytest.approx(
        factor * drawdowns.additive_drawdown(net).min(), rel=1e-9
    )
    assert risk.expected_shortfall(net) >= risk.value_at_risk(net)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_episodes_do_not_overlap_and_cover_the_water(seed):
    net = 0.01 * np.random.default_rng(seed).standard_normal(120)
    start = datetime(2001, 1, 1, tzinfo=UTC)
    flat = dict.fromkeys(("cash", "position_value", "equity", "turnover", "costs"), 0.0)
    rows = [{"ts_known": start + timedelta(days=i), "gross": x, "net": x} | flat for i, x in enumerate(net)]
    equity = frames.conform(pl.DataFrame(rows), frames.EQUITY)
    listed = drawdowns.episodes(equity, None)
    assert listed["length"].sum() == (drawdowns.additive_drawdown(net) < 0).sum()
    assert listed["depth"].is_sorted(descending=True)
    assert listed["end"].null_count() <= 1
    assert ((listed["down"] + listed["back"].fill_null(0)) <= listed["length"] + 1).all()


def test_exposure_has_a_row_for_every_session():
    result, _ = traded(3)
    path = exposure.exposure(result)
    assert path["ts_known"].equals(result.equity["ts_known"])
    gap = path["net"] * result.capital - result.equity["position_value"]
    assert gap.abs().max() < 1e-6
    assert (path["gross"] >= path["net"].abs() - 1e-12).all()


def test_capacity_falls_with_the_root_of_capital():
    result, bars = traded(5)
    law = capacity.capacity(result, bars)
    assert law.at(4 * law.capital) == pytest.approx(law.free - 2 * law.impact)
    assert law.unfilled >= 0
    dry = bars.with_columns(volume=pl.lit(0, dtype=pl.UInt64))
    assert capacity.capacity(result, dry).unfilled == result.fills.height
    assert capacity.measures(result, dry)["largest share of volume"] is None


def test_the_table_has_every_family_and_no_infinity():
    result, bars = traded(7)
    table = metrics.table(result, bars=bars)
    assert table["family"].unique(maintain_order=True).to_list() == [
        "return", "risk", "drawdown", "trade", "exposure", "cost", "capacity",
    ]  # fmt: skip
    assert table["measure"].n_unique() == table.height
    assert not table["value"].is_infinite().any()
    assert not table["value"].is_nan().any()
    assert (table["text"].str.len_chars() > 0).all()
    idle = fills.simulate(bars, frames.conform(pl.DataFrame({"ts_known": bars["ts_known"][:1], "symbol": "AAA", "target": 0.0}), frames.SIGNALS), costs=Costs())  # fmt: skip
    assert metrics.table(idle, bars=bars).filter(pl.col("measure") == "Sharpe")["text"].to_list() == [
        "undefined"
    ]


@pytest.mark.parametrize("bad", [[0.01, float("nan"), 0.0], [0.01, float("inf"), 0.0], [], [0.01]])
def test_what_is_no_series_is_refused(bad):
    for measure in (returns.additive_level, risk.volatility, risk.omega, drawdowns.ulcer):
        with pytest.raises(ValueError, match="net must be"):
            measure(bad)


def test_the_law_is_what_a_simulation_charges():
    bars = market(11, sessions=200)
    rng = np.random.default_rng(12)
    rows = bars.select("ts_known", "symbol").filter(
        pl.Series(rng.random(bars.height) < 0.3) & (pl.col("ts_known") > bars["ts_known"][20])
    )
    signals = frames.conform(
        rows.with_columns(target=pl.Series(rng.choice([-1.0, 0.0, 1.0], rows.height))), frames.SIGNALS
    )
    plain = fills.simulate(bars, signals, costs=Costs())
    charged = fills.simulate(bars, signals, costs=Costs(impact=1.0))
    years = plain.equity.height / 252
    law = capacity.capacity(plain, bars)
    assert law.impact == pytest.approx(charged.fills["impact"].sum() / 1e6 / years, rel=1e-9)
    assert capacity.capacity(charged, bars).free == pytest.approx(law.free, abs=1e-12)
