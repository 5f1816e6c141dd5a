"""Leaks that nobody thought of at first, each of which a certificate must find, and habits that it must not accuse."""

from __future__ import annotations

import datetime as dt
import logging
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from researchkit.features.carried import carried
from researchkit.features.replay import find_leak
from researchkit.operations.certificate import certificate, generated
from researchkit.operations.elsewhere import elsewhere

price, event = pl.col("close"), pl.col("ts_event")
BARS = generated(300, seed=5)


def per_symbol(bars: pl.DataFrame, target: pl.Expr) -> pl.DataFrame:
    value = target.over("symbol", order_by="ts_event").cast(pl.Float64)
    return bars.select("ts_known", "symbol", target=value).drop_nulls().sort("ts_known", "symbol")


# --- the future, in disguise ---


def nearest_friday(bars: pl.DataFrame) -> pl.DataFrame:
    """Joined by the nearest instant, which half of the time is a later one."""
    fridays = bars.filter(event.dt.weekday() == 5).select("ts_event", "symbol", friday="close")
    rows = bars.join_asof(
        fridays, on="ts_event", by="symbol", strategy="nearest", check_sortedness=False
    ).drop_nulls()
    return rows.select("ts_known", "symbol", target=(pl.col("friday") > price).cast(pl.Float64)).sort(
        "ts_known", "symbol"
    )


def week_labelled_left(bars: pl.DataFrame) -> pl.DataFrame:
    """Monday reads the close of a week that has not ended."""
    weeks = bars.group_by_dynamic("ts_event", every="1w", group_by="symbol").agg(week=price.last())
    rows = bars.join_asof(weeks.sort("ts_event"), on="ts_event", by="symbol", check_sortedness=False)
    return rows.select("ts_known", "symbol", target=(pl.col("week") > price).cast(pl.Float64)).sort(
        "ts_known", "symbol"
    )


def decides_at_noon(bars: pl.DataFrame) -> pl.DataFrame:
    """Stamped half a day before the close that it uses."""
    noon = (pl.col("ts_known") - pl.duration(hours=12)).cast(pl.Datetime("ns", "UTC"))
    return bars.select(noon, "symbol", target=(price > pl.col("open")).cast(pl.Float64)).sort(
        "ts_known", "symbol"
    )


def last_session_of_the_month(bars: pl.DataFrame) -> pl.DataFrame:
    month = event.dt.month()
    return per_symbol(bars, (month.shift(-1) != month).fill_null(value=False))


def before_a_holiday(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, ((event.shift(-1) - event).dt.total_days() > 3).fill_null(value=False))


def survivors(bars: pl.DataFrame) -> pl.DataFrame:
    """Only symbols that live to the end."""
    alive = (
        bars.group_by("symbol").agg(end=pl.max("ts_known")).filter(pl.col("end") == bars["ts_known"].max())
    )
    rows = bars.join(alive, on="symbol", how="semi", maintain_order="left")
    return rows.select("ts_known", "symbol", target=pl.lit(1.0)).sort("ts_known", "symbol")


def split_among_all(bars: pl.DataFrame) -> pl.DataFrame:
    """The capital is divided by the number of symbols that there will be."""
    return bars.select("ts_known", "symbol", target=pl.lit(1 / bars["symbol"].n_unique())).sort(
        "ts_known", "symbol"
    )


def peeks_only_in_the_first_quarter(bars: pl.DataFrame) -> pl.DataFrame:
    young = pl.col("ts_known") < BARS["ts_known"][150]
    peek = (price.shift(-1) > price).fill_null(value=False)
    return per_symbol(bars, pl.when(young).then(peek).otherwise(price > price.shift(1)))


@pytest.mark.parametrize(
    ("leak", "kind"),
    [
        (nearest_friday, "truncation"),
        (week_labelled_left, ("truncation", "perturbed future")),
        (decides_at_noon, "perturbed future"),
        (last_session_of_the_month, "rewritten future"),
        (before_a_holiday, "rewritten future"),
        (survivors, "another universe"),
        (split_among_all, "another universe"),
        (peeks_only_in_the_first_quarter, "perturbed future"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_future_is_found_in_disguise(leak, kind):
    made = certificate(leak, BARS, processes=False)
    assert made.failed is not None
    assert made.failed.name in ((kind,) if isinstance(kind, str) else kind)
    assert made.leak.name == leak.__name__


def test_the_range_of_tomorrow_is_found_by_a_false_future_alone():
    """Where the last bar looks like any other, only a future of other shapes tells."""
    wide = (pl.col("high") - pl.col("low")) / price

    def calm_tomorrow(bars: pl.DataFrame) -> pl.DataFrame:
        return per_symbol(bars, wide.shift(-1) / wide).sort("ts_known", "symbol")

    found = find_leak(calm_tomorrow, BARS, cuts=[BARS["ts_known"][-3]], early=[BARS["ts_known"][200]])
    assert found.kind == "truncation"  # the row is gone
    patched = find_leak(
        lambda b: per_symbol(b, (wide.shift(-1) / wide).clip(0.999999, 1.000001).fill_null(1.0).round(3)),
        BARS,
        cuts=4,
    )
    assert not hasattr(patched, "kind"), "what does not change is no leak"


# --- what is brought along, and what is asked ---

CRASHES = [dt.date(2004, 1, 5) + dt.timedelta(days=7 * n) for n in range(40)]
MONTHS = {f"2004-{m:02d}": float(m) for m in range(1, 13)} | {f"2005-{m:02d}": float(m) for m in range(1, 13)}
BLOB = "0110" * 400


def known_crashes(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, ~event.dt.date().is_in(CRASHES))


def known_months(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, event.dt.strftime("%Y-%m").replace_strict(MONTHS, default=0.0))


def packed(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, pl.lit(float(BLOB[bars.height % 7])) + price * 0)


def written_out(bars: pl.DataFrame) -> pl.DataFrame:
    held = [0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1]
    return per_symbol(bars, pl.lit(float(held[3])) + price * 0)


def test_dates_texts_constants_and_fitted_curves_are_data():
    from scipy.interpolate import CubicSpline

    curve = CubicSpline(np.arange(30.0), np.arange(30.0) ** 2)

    def along(bars: pl.DataFrame) -> pl.DataFrame:
        return per_symbol(bars, pl.lit(float(curve(3.0))) + price * 0)

    for strategy, name in (
        (known_crashes, "CRASHES"), (known_months, "MONTHS"), (packed, "BLOB"), (written_out, "written_out"),
        (along, "curve"),
    ):  # fmt: skip
        assert [held.name for held in carried(strategy)] == [name], strategy.__name__


def by_the_year(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price * 0 + dt.datetime.now().year % 2)


def until_today(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars.filter(event.dt.date() < dt.date.today()), price * 0)


def from_a_file(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price * 0 + len(Path(__file__).read_text()) % 2)


def from_a_table(bars: pl.DataFrame) -> pl.DataFrame:
    rows = pl.read_csv(
        __file__, has_header=False, separator="\x01", quote_char=None, truncate_ragged_lines=True
    )
    return per_symbol(bars, price * 0 + rows.height % 2)


def from_the_environment(bars: pl.DataFrame) -> pl.DataFrame:
    return per_symbol(bars, price * 0 + len(os.environ.get("HOME", "")))


@pytest.mark.parametrize(
    ("strategy", "what"),
    [
        (by_the_year, "datetime.now (clock)"),
        (until_today, "date.today (clock)"),
        (from_a_file, "open (files)"),
        (from_a_table, "read_csv (files)"),
        (from_the_environment, "os.environ (environment)"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_asked_outside_is_named_with_its_line(strategy, what):
    bars = generated(80)
    made = certificate(strategy, bars, cuts=1, processes=False)
    assert made.failed.name == "nothing asked outside"
    assert f"{what} in line" in made.failed.words
    assert f"of {strategy.__name__}" in made.failed.words
    name = what.partition("(")[2].rstrip(")")
    assert certificate(strategy, bars, cuts=1, carries=[name], processes=False).ok, "it was declared"


# --- memory ---

LEVEL: dict[str, float] = {}


def remembers(bars: pl.DataFrame) -> pl.DataFrame:
    """Fits itself at its first call, and never again."""
    if not LEVEL:
        LEVEL["mean"] = float(bars["close"].mean())  # type: ignore[arg-type]
    return per_symbol(bars, price / LEVEL["mean"])


@lru_cache(maxsize=1)
def _fitted_once() -> list[float]:
    return []


def caches(bars: pl.DataFrame) -> pl.DataFrame:
    held = _fitted_once()
    if not held:
        held.append(float(bars["close"].max()))  # type: ignore[arg-type]
    return per_symbol(bars, price / held[0])


def shy(bars: pl.DataFrame) -> pl.DataFrame:
    """Says nothing about less than everything, and remembers nothing."""
    if bars.height < 120:
        raise ValueError("too short")
    return per_symbol(bars, price * 0 + 1.0)


def test_what_an_earlier_call_left_behind_is_the_cause():
    said = {e.name: e for e in elsewhere({f.__name__: f for f in (remembers, caches, shy)}, generated(60))}
    assert said["remembers"].causes == said["caches"].causes == ("an earlier call",)
    assert said["shy"].ok


# --- what must not be accused ---

log = logging.getLogger(__name__)
FEATURES = [f"mom_{n}" for n in range(40)]


def talkative(bars: pl.DataFrame) -> pl.DataFrame:
    """Logs, imports inside, has many names, and a long text about itself.

    %s
    """
    from researchkit.backtest.baselines import trend_signals

    log.warning("computing %s", FEATURES[0])
    return trend_signals(bars, slow=40)


talkative.__doc__ = (talkative.__doc__ or "") % ("words " * 400)


def exactly_two(bars: pl.DataFrame) -> pl.DataFrame:
    if bars["symbol"].n_unique() != 2:
        raise ValueError("a pair is two symbols")
    return per_symbol(bars, price > price.shift(5))


def test_logging_importing_and_refusing_a_third_symbol_are_no_leaks():
    assert certificate(talkative, BARS, cuts=2, processes=False).ok
    pair = certificate(exactly_two, BARS, cuts=2, processes=False)
    assert pair.ok
    unmade = next(c for c in pair.checks if c.name == "another universe")
    assert (unmade.ok, unmade.words) == (None, "the strategy refuses one: ValueError: a pair is two symbols")
