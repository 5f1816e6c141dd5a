"""What a function holds besides its arguments is found wherever Python lets it hide."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from functools import lru_cache, partial, wraps

import numpy as np
import polars as pl
import pytest

from researchkit.features.carried import carried

TABLE = pl.DataFrame({"x": [1.0, 2.0]})
WINDOWS = [5, 10, 20]


def by_global(bars):
    return bars.join(TABLE, how="cross")


def inside(bars):
    def deeper():
        return TABLE

    return deeper()


def by_another(bars):
    return by_global(bars)


def by_default(bars, *, levels=np.zeros(4)):  # noqa: B008 (the point of it)
    return levels


def clean(bars, windows=(5, 10)):
    return bars.select(pl.col("close").rolling_mean(n) for n in [*windows, *WINDOWS])


def decorated(function):
    @wraps(function)
    def outer(bars):
        return function(bars)

    return outer


class OnTheClass:
    levels = np.arange(3.0)

    def __call__(self, bars):
        return self.levels


@dataclass
class OnTheObject:
    fitted: dict[str, object] = field(default_factory=lambda: {"scaler": pl.Series([1.0])})

    def signals(self, bars):
        return self.fitted


HELD = (
    (by_global, "TABLE"), (inside, "TABLE"), (by_another, "TABLE"), (by_default, "levels"),
    (decorated(by_global), "TABLE"), (partial(clean, windows=TABLE), "windows"), (OnTheClass(), "levels"),
    (OnTheObject().signals, "scaler"), (lambda bars: TABLE, "TABLE"), (lru_cache(by_global), "TABLE"),
)  # fmt: skip


@pytest.mark.parametrize(("function", "name"), HELD, ids=[str(i) for i in range(len(HELD))])
def test_data_is_found(function, name):
    assert [c.name for c in carried(function)] == [name]


def test_data_of_a_module_of_ones_own_is_found():
    mine = types.ModuleType("mine_with_a_table")
    mine.table, mine.other = TABLE, TABLE
    sys.modules["mine_with_a_table"] = mine
    space = {"mine": mine}
    exec("def rule(bars):\n    return bars.join(mine.table)\n", space)
    found = carried(space["rule"])
    assert [c.name for c in found] == ["table"]
    assert str(found[0]).startswith("module 'mine', 'table': a DataFrame of 2 × 1")


def test_settings_are_no_data():
    assert carried(clean) == ()
    assert carried(partial(clean, windows=(3, 4))) == ()
    assert carried(decorated(clean)) == ()
    assert carried(lambda bars: bars.select(pl.lit(np.float64(1.5)))) == ()


def test_a_cycle_is_walked_once():
    class Knot:
        def __init__(self):
            self.self, self.table = self, TABLE

        def __call__(self, bars):
            return self.self

    assert [c.name for c in carried(Knot())] == ["table"]
