"""Figures render, look the same twice, and touch no global state."""

import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from researchkit import frames, views
from researchkit.views import cards, style


def made_up(seed, n=400):
    """An equity frame of random profits."""
    net = np.random.default_rng(seed).normal(0.0003, 0.01, n)
    when = [datetime(2009, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(n)]
    level = 1e6 * (1 + np.cumsum(net))
    columns = {"ts_known": when, "cash": level, "position_value": np.zeros(n), "equity": level,
               "gross": net, "net": net, "turnover": np.zeros(n), "costs": np.zeros(n)}  # fmt: skip
    return frames.conform(pl.DataFrame(columns), frames.EQUITY)


@pytest.mark.parametrize(
    "draw",
    [
        lambda e: views.tearsheet(e, title="x"),
        lambda e: views.drawdown(e),
        lambda e: views.equity_curves({"baseline": e, "challenger": made_up(2)}),
        lambda e: views.against(made_up(2), e, name="challenger"),
    ],
    ids=["tearsheet", "drawdown", "equity_curves", "against"],
)
def test_same_frame_same_bytes(draw):
    equity = made_up(1)
    picture = style.png(draw(equity))
    assert picture[:4] == b"\x89PNG"
    assert picture == style.png(draw(equity))


def test_short_histories_have_a_tearsheet():
    assert style.png(views.tearsheet(made_up(3, n=5)))


def test_figures_leave_pyplot_alone():
    def open_figures() -> list[int]:
        plt = sys.modules.get("matplotlib.pyplot")  # another test of this process may have loaded it
        return [] if plt is None else list(plt.get_fignums())

    before = open_figures()
    views.drawdown(made_up(1))
    assert open_figures() == before


def test_names_keep_their_distance():
    placed = style.spread_apart([0.3, 0.1, 0.1, 0.9], 0.2)
    ordered = sorted(placed)
    assert all(b - a > 0.2 - 1e-12 for a, b in pairwise(ordered))


def test_verdicts_of_all_kinds():
    rows = pl.DataFrame(
        {"challenger": ["a", "b"], "verdict": ["moved", "refused"], "edge": [0.02, None], "low": [0.01, None],
         "high": [0.03, None], "reason": ["", "why"]}
    )  # fmt: skip
    assert style.png(views.verdicts(rows))


def test_cards_escape_everything():
    evil = "<script>alert('x')</script>\"'&"
    for html in (
        cards.card(evil, {evil: evil}, note=evil),
        cards.table(pl.DataFrame({evil: [evil]}), caption=evil),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
