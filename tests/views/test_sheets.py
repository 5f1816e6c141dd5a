"""The sheets of a result, a parity check and an attribution: same bytes twice, nothing unescaped."""

import polars as pl
import pytest
from worlds import market, run, targets

from researchkit import views
from researchkit.backtest import Costs, capacity, metrics, scenarios, stress
from researchkit.backtest.attribution import attribute
from researchkit.backtest.parity import first_divergence
from researchkit.backtest.systems import System, of_result
from researchkit.views import sheet, style
from researchkit.views.parity import parity_page
from researchkit.views.waterfall import steps


@pytest.fixture(scope="module")
def world():
    bars = market(2, sessions=300)
    signals = targets(bars, 2, share=0.1)
    return bars, signals, run(bars, signals, "one"), run(bars, targets(bars, 3, share=0.1), "two")


def test_same_result_same_bytes(world):
    bars, signals, one, two = world
    draws = [
        lambda: views.tear_sheet(one, bars=bars, size=(6, 7)),
        lambda: views.parity_ladder(first_divergence(one, two)),
        lambda: views.waterfall(attribute(one, two, bars)),
        lambda: views.stress_sheet(
            costs=stress.costs(one),
            delays=stress.delays(bars, signals, costs=Costs(), by=(0, 1)),
            capacity=capacity.curve(one, bars, [1e5, 1e7]),
            scenarios=scenarios.table(one),
        ),
    ]
    for draw in draws:
        picture = style.png(draw())
        assert picture[:4] == b"\x89PNG"
        assert picture == style.png(draw())


def test_a_strategy_that_did_nothing_has_its_sheets(world):
    bars, signals, *_ = world
    idle = run(bars, signals[:0], "idle")
    assert style.png(views.tear_sheet(idle, bars=bars, size=(6, 7)))
    assert style.png(views.waterfall(attribute(idle, idle, bars)))
    assert style.png(views.stress_sheet(costs=stress.costs(idle), scenarios=scenarios.table(idle)))


def test_widgets_escape_what_came_from_files(world):
    evil = "<script>alert(1)</script>"
    one = of_result(world[2])
    odd = System(**{**vars(one), "label": evil, "fills": one.fills.with_columns(symbol=pl.lit(evil))})
    for html in (
        parity_page(first_divergence(odd, one)),
        sheet.measures_page(metrics.table(world[2]), title=evil),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_a_level_opens_where_it_broke(world):
    one, two = (of_result(r) for r in world[2:])
    html = parity_page(first_divergence(one, two))
    assert html.count("<details open") == 1
    assert html.count("broke first") == 1
    assert parity_page(first_divergence(one, one)).count("<details open") == 0


def test_the_last_step_lands_on_the_challenger(world):
    bars, _, one, two = world
    laid = steps(attribute(one, two, bars))
    assert laid[0][2] == pytest.approx(two.equity["net"].sum() * 1e6)
    assert laid[-1][2] == pytest.approx(one.equity["net"].sum() * 1e6, abs=0.02)


def test_what_a_widget_writes_in_full(world):
    shown = views.Measures(world[2])
    assert "Sharpe" in repr(shown)
    assert shown._repr_html_().count("<table") == shown.frame["family"].n_unique()
