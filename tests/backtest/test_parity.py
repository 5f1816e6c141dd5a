"""One bit anywhere is found where it is; whatever else two tables can do to each other has its own answer."""

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import market, run, targets

from researchkit.backtest import divergence, parity, systems, ulps
from researchkit.errors import SchemaError

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(x=FINITE)
def test_neighbours_are_one_apart(x):
    up = math.nextafter(x, math.inf)
    assert ulps.ulps([x], [x]).tolist() == [0]
    if math.isfinite(up):
        assert ulps.ulps([x], [up]).tolist() == [1]


@given(a=FINITE, b=FINITE, c=FINITE)
def test_the_distance_is_one(a, b, c):
    ab, ba, bc, ac = (int(ulps.ulps([x], [y])[0]) for x, y in ((a, b), (b, a), (b, c), (a, c)))
    assert ab == ba
    assert ac <= ab + bc
    assert (ab == 0) == (a == b)


def test_what_is_not_a_number_is_far_from_every_number():
    nan, far = float("nan"), int(ulps.INCOMPARABLE)
    assert ulps.ulps([nan, nan, 1.0, math.inf], [nan, 1.0, nan, -math.inf]).tolist()[:3] == [0, far, far]


def whole(seed):
    """A system that shows everything."""
    bars = market(seed)
    signals = targets(bars, seed)
    features = signals.rename({"target": "f"}).with_columns(g=pl.col("f") * 0.1)
    return systems.of_result(
        run(bars, signals, "one", borrow_rate=0.02), signals=signals, features=features, bars=bars
    )


PLACES = [("fills", "fills", "price"), ("orders", "orders", "quantity"), ("signals", "signals", "target"),
          ("features", "features", "g"), ("input rows", "bars", "close"), ("equity", "equity", "cash"), ("daily P&L", "pnl", "net")]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), place=st.sampled_from(PLACES), at=st.floats(0, 1, exclude_max=True))
def test_one_bit_is_found_where_it_is(seed, place, at):
    level, field, column = place
    one = whole(seed)
    frame = getattr(one, field)
    row = int(at * frame.height)
    values = frame[column].to_numpy().copy()
    values[row] = np.nextafter(values[row], np.inf)
    two = systems.System(
        **{**vars(one), field: frame.with_columns(pl.Series(column, values)), "label": "two"}
    )
    found = parity.first_divergence(one, two)
    assert [x.name for x in found.levels if x.state == "differs"] == [level]
    assert found.broke.name == level
    first = found.broke.first
    assert (first["column"], first["ulps"], first["a"]) == (column, 1, frame[column][row])
    assert first["when"] == frame[frame.columns[0] if level != "orders" else "ts_known"][row]
    assert parity.first_divergence(two, one).broke.first["when"] == first["when"]
    assert parity.first_divergence(one, two, ulps=1).agrees


PLANTS = st.lists(
    st.tuples(st.sampled_from(PLACES), st.floats(0, 1, exclude_max=True), st.sampled_from(["bit", "lost", "twice"])),
    min_size=1, max_size=4, unique_by=lambda p: p[0][0],
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 20), plants=PLANTS)
def test_of_several_changes_the_earliest_is_the_cause(seed, plants):
    """A bit, a lost row or a repeated one on up to four levels; at one instant the level nearest to the data."""
    one, changed, planted = whole(seed), {}, []
    for (level, field, column), at, how in plants:
        frame = getattr(one, field)
        row = 1 + int(at * (frame.height - 2))  # inside what both cover
        when = frame[frame.columns[0] if level != "orders" else "ts_known"][row]
        if how == "bit":
            values = frame[column].to_numpy().copy()
            values[row] = np.nextafter(values[row], np.inf)
            changed[field] = frame.with_columns(pl.Series(column, values))
        elif how == "lost":
            changed[field] = frame.filter(pl.int_range(pl.len()) != row)
        else:
            changed[field] = pl.concat([frame, frame[row : row + 1]])
        planted.append((when, -systems.LEVELS.index(level), level))
        if level == "equity" and how != "bit":  # the profit is read off the equity
            planted.append((when, -1, "daily P&L"))
    two = systems.System(**{**vars(one), **changed, "label": "two"})
    found = parity.first_divergence(one, two)
    assert found.broke is not None
    assert (found.broke.first["when"], found.broke.name) == (min(planted)[0], min(planted)[2])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_rows_is_no_difference(seed):
    one = whole(seed)
    mixed = {n: f.sample(fraction=1.0, shuffle=True, seed=seed) for n, f in vars(one).items() if n in ("fills", "signals", "bars", "features")}  # fmt: skip
    found = parity.first_divergence(one, systems.System(**{**vars(one), **mixed}))
    assert found.agrees
    assert found.complete


def test_a_missing_level_is_never_equal():
    one = whole(1)
    bare = systems.System("bare", equity=one.equity)
    found = parity.first_divergence(bare, one)
    assert [x.state for x in found.levels[2:]] == ["not given by bare"] * 5
    assert found.agrees
    assert not found.complete
    nothing = parity.first_divergence(systems.System("a"), systems.System("b"))
    assert not nothing.agrees
    assert nothing.broke is None
    assert "not compared" in repr(nothing)


def curve(days, values):
    """A foreign equity file."""
    return pl.DataFrame(
        {"date": [date(2009, 1, 1) + timedelta(days=d) for d in days], "nav": [float(v) for v in values]}
    )


@pytest.mark.parametrize(
    ("a", "b", "kind", "inside"),
    [
        (curve([0, 1, 2], [1, 2, 3]), curve([0, 1], [1, 2]), "session only in A", False),
        (curve([0, 1, 2, 3], [1, 2, 3, 4]), curve([0, 2, 3], [1, 3, 4]), "session only in A", True),
        (curve([0, 1, 2], [1, 2, 3]), curve([0, 1, 1, 2], [1, 2, 2, 3]), "repeated in B", True),
        (curve([0, 1, 2], [1, float("nan"), 3]), curve([0, 1, 2], [1, 2, 3]), "undefined in A", True),
        (curve([0, 1, 2], [1, math.inf, 3]), curve([0, 1, 2], [1, 2, 3]), "value", True),
        (curve([], []), curve([0], [1]), "session only in B", True),
        (curve([0, 2], [1, 3]), curve([0, 1, 2], [1, 2, 3]), "session only in B", True),
    ],
    ids=["spans", "holiday", "copy", "nan", "infinity", "empty", "gap"],
)
def test_every_way_to_differ_has_its_word(a, b, kind, inside):
    level = parity.first_divergence(a, b).levels[0]
    assert level.state == "differs"
    assert (level.first["kind"], level.first["inside"]) == (kind, inside)
    assert str(level).startswith("equity: first differs 2009-01-0")


def test_both_undefined_is_the_same():
    holes = curve([0, 1, 2], [1, float("nan"), 3])
    nulls = holes.with_columns(nav=pl.col("nav").fill_nan(None))
    assert parity.first_divergence(holes, nulls).levels[0].state == "identical"


def test_fills_can_be_read_off_positions():
    bars = market(3, holes=0.0)
    result = run(bars, targets(bars, 3), "one")
    held = systems.System("old", positions=result.positions)
    level = parity.compare_level(held, systems.of_result(result), "fills")
    assert level.state == "identical"
    assert "positions" in level.note
    other = systems.System("old", positions=result.positions.filter(pl.col("symbol") != "BBB"))
    assert (
        "symbol only in B"
        in parity.compare_level(other, systems.of_result(result), "fills").differences["kind"].to_list()
    )


def test_a_duplicated_fill_is_not_multiplied():
    one = whole(4)
    doubled = pl.concat([one.fills, one.fills[3:4]]).sort("ts_event", "symbol")
    level = parity.compare_level(one, systems.System(**{**vars(one), "fills": doubled}), "fills")
    assert level.differences["kind"].to_list() == ["repeated in B"]


def test_tables_that_mean_nothing_are_refused():
    with pytest.raises(SchemaError, match="fit none of"):
        parity.first_divergence(pl.DataFrame({"date": ["2009-01-01"], "x": [1.0]}), whole(1))
    with pytest.raises(SchemaError, match="no ISO day or time"):
        parity.first_divergence(pl.DataFrame({"date": ["01/02/2009"], "nav": [1.0]}), whole(1))
    with pytest.raises(ValueError, match="ulps must be a number of at least 0"):
        divergence.Tolerance(ulps=-1)


def test_a_date_is_an_evening_for_the_account_and_a_session_for_a_fill():
    _, account = systems.foreign(pl.DataFrame({"date": ["2009-03-09"], "nav": [1]}))
    _, trade = systems.foreign(pl.DataFrame({"date": ["2009-03-09"], "ticker": ["X"], "qty": [1], "px": [1]}))
    assert account["ts_known"][0] == datetime(2009, 3, 10, tzinfo=UTC)
    assert trade["ts_event"][0] == datetime(2009, 3, 9, tzinfo=UTC)
    _, noon = systems.foreign(pl.DataFrame({"time": ["2009-03-09T12:00:00Z"], "nav": [1]}))
    assert noon["ts_known"][0] == datetime(2009, 3, 9, 12, tzinfo=UTC)


def _files(hour: int, held: float) -> systems.System:
    """A system with one fill, what it held, and an account, all stamped at this hour."""
    day = [datetime(2009, 3, 9, hour, tzinfo=UTC), datetime(2009, 3, 10, hour, tzinfo=UTC)]
    return systems.of_frames(
        pl.DataFrame({"ts_event": day[:1], "symbol": "SPX", "quantity": [3.0], "price": [676.5]}),
        named={
            "positions": pl.DataFrame({"ts_known": day, "symbol": "SPX", "quantity": [3.0, held]}),
            "equity": pl.DataFrame({"ts_known": day, "equity": [1e6, 1e6]}),
        },
        label=f"at {hour}",
    )


def test_positions_beside_fills_are_compared_too() -> None:
    fills = {level.name: level for level in parity.first_divergence(_files(0, 3.0), _files(0, 3.5)).levels}[
        "fills"
    ]
    assert fills.state == "differs"
    assert parity.sentence(fills).endswith("the fills agree, the positions do not")
    alone = parity.compare_level(_files(0, 3.0), replace(_files(0, 3.0), positions=None), "fills")
    assert parity.sentence(alone).endswith("the positions of at 0 have nothing to be compared with")


def test_instants_that_never_meet_are_said() -> None:
    said = parity.sentence(parity.compare_level(_files(0, 3.0), _files(21, 3.0), "equity"))
    assert "no instant in common: at 0 begins at 2009-03-09 00:00, at 21 at 2009-03-09 21:00 UTC" in said
