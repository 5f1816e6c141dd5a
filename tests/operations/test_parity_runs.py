"""`parity RUN RUN`: seven levels out of the archive, and the first broken one named at every depth."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from worlds import market, targets

from researchkit.backtest import Costs, fills
from researchkit.backtest.market import Market
from researchkit.backtest.origins import digests, recognised
from researchkit.backtest.parity import first_divergence
from researchkit.backtest.rules import Rules
from researchkit.errors import IntegrityError, NotFound
from researchkit.experiments.evidence import chain
from researchkit.frames import INSTANT
from researchkit.operations.sides import of_run
from researchkit.workspace import Workspace
from researchkit.workspace import open as open_workspace

BARS = market(5, holes=0.0)
WISH = targets(BARS, 5)
FEATURES = WISH.rename({"target": "f"})
DAY = BARS["ts_event"].unique().sort()[30]


def changed(frame: pl.DataFrame, column: str, by: float = 0.25) -> pl.DataFrame:
    """Move one number of one row in the middle of a frame."""
    row = pl.int_range(pl.len()) == frame.height // 2
    return frame.with_columns(pl.when(row).then(pl.col(column) + by).otherwise(pl.col(column)).alias(column))


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace for runs."""
    return open_workspace(tmp_path_factory.mktemp("runs") / "ws")


def logged(ws: Workspace, result: Any, **more: Any) -> str:
    """Log a result in a run of its own."""
    with ws.run("a try", hypothesis="H-1") as run:
        run.log(result=result, **more)
    return run.id


def simulated(bars: pl.DataFrame = BARS, wish: pl.DataFrame = WISH, **terms: Any) -> Any:
    """Simulate, at the costs given."""
    costs = Costs(bps=terms.pop("bps", 1.0))
    return fills.simulate(bars, wish, costs=costs, **terms)


@pytest.fixture(scope="module")
def base(ws: Workspace) -> str:
    """The run that all others are compared with."""
    return logged(ws, simulated(), features=FEATURES, bars=BARS)


CASES = {
    "input rows": lambda: (simulated(changed(BARS, "high")), {"features": FEATURES, "bars": changed(BARS, "high")}),
    "features": lambda: (simulated(), {"features": changed(FEATURES, "f", 1e-16), "bars": BARS}),
    "signals": lambda: (simulated(wish=changed(WISH, "target")), {"features": FEATURES, "bars": BARS}),
    "orders": lambda: (simulated(rules=Rules(lot=100.0)), {"features": FEATURES, "bars": BARS}),
    "fills": lambda: (simulated(bps=2.0), {"features": FEATURES, "bars": BARS}),
}  # fmt: skip


@pytest.mark.parametrize("level", CASES)
def test_the_level_that_was_changed_is_named(ws: Workspace, base: str, level: str) -> None:
    result, more = CASES[level]()
    found = first_divergence(of_run(ws, base), of_run(ws, logged(ws, result, **more)))
    assert (found.agrees, found.complete) == (False, True)
    assert found.broke is not None
    assert found.broke.name == level
    same = first_divergence(of_run(ws, base), of_run(ws, base))
    assert (same.agrees, same.complete, same.broke) == (True, True, None)


def test_what_was_assumed_differently_is_said(ws: Workspace, base: str) -> None:
    result = simulated(bps=2.0, rules=Rules(stop=0.5))
    found = first_divergence(of_run(ws, base), of_run(ws, logged(ws, result)))
    assert dict((n, (a, b)) for n, a, b in found.terms) == {
        "costs.bps": ("1.0", "2.0"),
        "rules.stop": ("None", "0.5"),
    }


def test_a_run_that_kept_less_is_never_called_equal(ws: Workspace, base: str) -> None:
    """As runs of earlier versions did: equity, fills and costs, and nothing between."""
    older = logged(ws, simulated().equity)
    levels = {x.name: x.state for x in first_divergence(of_run(ws, base), of_run(ws, older)).levels}
    label = f"{older[:8]}/main"
    assert [n for n, state in levels.items() if state == "identical"] == ["equity", "daily P&L"]
    assert {state for n, state in levels.items() if n not in ("equity", "daily P&L")} == {
        f"not kept by {label}"
    }


def test_everything_that_is_kept_is_verified(ws: Workspace) -> None:
    split = {
        "ts_event": [DAY],
        "symbol": ["AAA"],
        "kind": ["split"],
        "ratio": [2.0],
        "amount": [None],
        "ts_pay": [None],
    }
    kinds = {"ratio": pl.Float64, "amount": pl.Float64, "ts_event": INSTANT, "ts_pay": INSTANT}
    actions = pl.DataFrame(split, schema_overrides=kinds)
    made = simulated(market=Market(actions=actions), rules=Rules(lot=1.0))
    run = logged(ws, made, bars=BARS)
    links = chain(ws, run)
    kept = {"orders", "positions", "signals", "inputs", "bars", "actions", "fills"}
    assert kept <= {x.name.rpartition("/")[2].partition(".")[0] for x in links if x.kind == "frame"}
    assert all(x.ok is not False for x in links)
    (row,) = ws.warehouse.rows("artifacts", trial=run, name="orders.parquet")
    path = ws.archive.path(row["archive_path"])
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="orders"):
        of_run(ws, run)
    assert any(x.ok is False and "orders" in x.name for x in chain(ws, run))


def test_rows_that_no_pin_holds_are_found_where_they_are() -> None:
    """One last bit of one price, of one symbol, on one day, in rows of a minute and in any order."""
    start = datetime(2012, 1, 2, tzinfo=UTC)
    minutes = market(3, sessions=40, holes=0.3)
    place = (pl.col("ts_event") - pl.col("ts_event").min()).dt.total_days()
    minutes = minutes.with_columns(
        (pl.lit(start) + pl.duration(minutes=40 * place)).cast(INSTANT).alias("ts_event")
    )
    row = 57
    close = minutes["close"].to_list()
    close[row] *= 1 + 2**-52
    moved = minutes.with_columns(close=pl.Series(close)).sample(fraction=1.0, shuffle=True, seed=1)
    seen = recognised(minutes, digests(moved)).filter(pl.col("row") != "as pinned")
    assert seen["symbol"].unique().to_list() == [minutes["symbol"][row]]
    assert seen["ts_event"].dt.date().unique().to_list() == [minutes["ts_event"][row].date()]
    assert seen["close"].null_count() == seen.height
    assert recognised(minutes, digests(minutes.reverse()))["row"].unique().to_list() == ["as pinned"]


def test_latest_is_the_newest_run_that_logged_a_result(tmp_path: Path) -> None:
    ws = open_workspace(tmp_path / "ws")
    with ws.run("only a look", hypothesis="H-1") as look:
        pass
    with pytest.raises(NotFound, match=r"^no run has logged a result yet"):
        of_run(ws, "latest")
    one = logged(ws, simulated())
    with ws.run("only a number", hypothesis="H-1") as run:
        run.log(metrics={"edge": 0.1})
    assert of_run(ws, "latest").label == f"{one[:8]}/main"
    for name in (look.id, run.id):
        with pytest.raises(
            NotFound, match=rf"^run {name[:8]} logged no result; the newest that did is {one[:8]}$"
        ):
            of_run(ws, name)
