"""Properties of the Sharpe ratio, the scaled difference and the selection budgets."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.inference.difference import compare, equal_volatility, trailing_volatility
from researchkit.inference.selection import (
    alpha_for,
    benjamini_hochberg,
    detectable_edge,
    holm,
    naive_gate,
    power,
    power_of,
    years_to_decide,
)
from researchkit.inference.sharpe import (
    automatic_lag,
    deflated_sharpe,
    long_run_variance,
    min_track_record,
    probabilistic_sharpe,
    sharpe,
)

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10_000)


def draw(seed: int, n: int = 400, mean: float = 0.0004) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(5, n) * 0.008 + mean


@few
@given(seeds, st.floats(0.01, 50))
def test_sharpe_does_not_see_leverage(seed, factor):
    r = draw(seed)
    a, b = sharpe(r), sharpe(factor * r)
    for name in ("value", "se_iid", "se", "se_hac", "skew", "kurt"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-9, abs=1e-9)


@few
@given(seeds, st.integers(0, 30))
def test_long_run_variance_is_never_negative_and_equals_its_definition(seed, lag):
    x = draw(seed, 60)
    x[1:] -= 0.9 * x[:-1]
    d = x - x.mean()
    gamma = [sum(d[t] * d[t - j] for t in range(j, 60)) / 60 for j in range(lag + 1)]
    want = gamma[0] + 2 * sum((1 - j / (lag + 1)) * gamma[j] for j in range(1, lag + 1))
    got = long_run_variance(x, lag)
    assert got == pytest.approx(want, rel=1e-9, abs=1e-15)
    assert got >= -1e-18


def test_mertens_error_agrees_with_simulation():
    """With skewed daily returns the spread of 3,000 estimated ratios is what Mertens' formula says."""
    rng = np.random.default_rng(1)
    r = 0.05 - (rng.gamma(2.0, 1.0, (3000, 500)) - 2.0) / math.sqrt(2)
    ratios = r.mean(axis=1) / r.std(axis=1, ddof=1)
    errors = [sharpe(row, 1).se for row in r[:200]]
    assert np.mean(errors) == pytest.approx(ratios.std(), rel=0.06)


def test_published_numbers():
    """Bailey and López de Prado 2012 and 2014, and Lo 2002 table 1 (SR 1.5 a month, 60 months: 0.188).

    The papers: docslib.org/doc/2166904/the-sharpe-ratio-efficient-frontier (2012), and 2014, whose address
    www.davidhbailey.com/dhbpapers/deflated-sharpe.pdf stands in github.com/stefan-jansen/machine-learning-for-trading,
    08_ml4t_workflow/01_multiple_testing/README.md. The text of neither was to be had when this was written down: these
    numbers are from memory of them. So is Lo's. The fund data of Ledoit and Wolf 2008 (www.zora.uzh.ch/6460) were not to
    be had either; their test is checked by simulation instead (`make study-inference`).
    """
    day = math.sqrt(250)
    assert min_track_record(2 / day, 1 / day) / 250 == pytest.approx(2.73, abs=0.005)
    assert min_track_record(2 / math.sqrt(52), 1 / math.sqrt(52)) / 52 == pytest.approx(2.83, abs=0.005)
    assert min_track_record(2 / math.sqrt(12), 1 / math.sqrt(12)) / 12 == pytest.approx(3.24, abs=0.005)
    paper = deflated_sharpe(2.5 / day, 0.5 / 250, n_trials=100, n=1250, skew=-3, kurt=10)
    assert (paper.benchmark, paper.value) == pytest.approx((0.1132, 0.9004), abs=5e-5)
    z = np.random.default_rng(0).standard_normal(60)
    z = (z - z.mean()) / z.std(ddof=1)
    assert sharpe(z + 1.5, 1).se_iid == pytest.approx(0.188, abs=5e-4)


def test_the_fifteen_p_values_of_benjamini_and_hochberg():
    """Their example of 1995 (a trial of thrombolysis): four rejections at 0.05, where Bonferroni and Holm make three.

    The p-values as they are repeated in the tests of many packages, such as the one that also gives the adjusted values
    checked here; what those share is the table, doi.org/10.1111/j.2517-6161.1995.tb02031.x.
    """
    p = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
        0.7590, 1.0,
    ]  # fmt: skip
    adjusted = benjamini_hochberg(p)
    assert adjusted[[0, 3, 5, 6, 8]] == pytest.approx(
        [0.0015, 0.035625, 0.0638571, 0.0638571, 0.0765], abs=1e-6
    )
    assert int((adjusted <= 0.05).sum()) == 4
    assert int((holm(p) <= 0.05).sum()) == 3


@few
@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.integers(10, 5000))
def test_psr_is_a_half_at_the_benchmark_and_rises_with_the_ratio(sr, other, n):
    assert probabilistic_sharpe(sr, sr, n=n) == pytest.approx(0.5)
    low, high = sorted((sr, other))
    assert probabilistic_sharpe(low, n=n) <= probabilistic_sharpe(high, n=n) + 1e-12


@few
@given(st.integers(1, 10**7))
def test_the_lag_is_at_least_a_week(n):
    assert automatic_lag(n) == min(n - 1, max(5, int(4 * (n / 100) ** (2 / 9))))


@few
@given(seeds, st.floats(0.001, 1000))
def test_any_constant_leverage_of_the_baseline_is_resized(seed, factor):
    base = draw(seed)
    result = compare(factor * base, base)
    assert result.resized
    assert (result.p_one_sided, result.p_above(0.01), result.t) == (1.0, 1.0, 0.0)


def test_leverage_of_one_point_three_is_nothing():
    base = draw(7, 1258)
    result = compare(1.3 * base, base, start=100)
    assert result.resized
    assert result.p_one_sided == 1.0
    assert abs(result.mean_annual) < 1e-10
    assert "the baseline resized" in repr(result)


def test_leverage_with_a_whiff_of_something_else_is_not_resized():
    base = draw(7, 1258)
    assert not compare(1.3 * base + 1e-9 * draw(8, 1258), base).resized
    drifting = base * np.linspace(1.0, 1.5, base.size)
    assert not compare(drifting, base).resized


@few
@given(seeds, st.floats(0.05, 20))
def test_the_edge_does_not_depend_on_the_challengers_size(seed, factor):
    base, own = draw(seed), draw(seed + 1)
    a, b = compare(own, base, cap=1e9), compare(factor * own, base, cap=1e9)
    assert a.mean_annual == pytest.approx(b.mean_annual, rel=1e-8, abs=1e-10)
    assert a.p_one_sided == pytest.approx(b.p_one_sided, rel=1e-8, abs=1e-10)


@few
@given(seeds, st.integers(64, 399))
def test_the_scale_knows_only_the_past(seed, cut):
    base, own, wild = draw(seed), draw(seed + 1), draw(seed + 2) * 30
    changed_b, changed_k = np.r_[base[:cut], wild[cut:]], np.r_[own[:cut], wild[cut:]]
    scale = equal_volatility(own, base).scale
    assert (equal_volatility(changed_k, changed_b).scale[: cut + 1] == scale[: cut + 1]).all()


def test_the_trailing_window_is_the_63_sessions_before():
    r = draw(3, 100)
    v = trailing_volatility(r)
    assert np.isnan(v[:63]).all()
    assert v[63] == pytest.approx(r[:63].std(ddof=1))
    assert v[99] == pytest.approx(r[36:99].std(ddof=1))
    assert trailing_volatility(r, lag=2)[99] == pytest.approx(r[35:98].std(ddof=1))


def test_rows_before_start_feed_the_window_only():
    base, own = draw(1, 500), draw(2, 500)
    whole = compare(own, base, start=200)
    assert whole.n == 300
    assert compare(own[137:], base[137:], start=63).mean_annual == pytest.approx(whole.mean_annual, rel=1e-12)
    assert compare(own, base).n == 437


def test_a_challenger_in_cash_is_capped_and_one_that_never_trades_has_no_edge():
    base = draw(5, 600)
    seldom = np.where(np.arange(600) % 100 == 0, base, 0.0)
    assert compare(seldom, base).capped > 0
    scaled = equal_volatility(np.zeros(600), base)
    assert (scaled.returns == 0).all()
    idle = compare(np.zeros(600), np.zeros(600))
    assert idle.resized
    assert compare(np.zeros(600), base).mean_annual == pytest.approx(-base[63:].mean() * 252)


def test_bounds_and_tests_agree():
    result = compare(draw(12, 800), draw(13, 800))
    for level in (0.6, 0.9, 0.99):
        assert result.p_above(result.upper_bound(level)) == pytest.approx(level)
    low, high = result.ci(0.9)
    assert high == pytest.approx(result.upper_bound(0.95))
    assert low < result.mean_annual < high


ps = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@few
@given(ps)
def test_holm_is_between_raw_and_bonferroni_keeps_order_and_matches_its_definition(p):
    adjusted = holm(p)
    raw = np.array(p)
    assert (adjusted >= raw - 1e-15).all()
    assert (adjusted <= np.minimum(1, raw * raw.size) + 1e-15).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= -1e-15).all()
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (raw.size - rank) * raw[i]))
        assert adjusted[i] == pytest.approx(running)


def test_holm_keeps_the_family_error():
    rng = np.random.default_rng(0)
    wrong = sum((holm(rng.random(5)) < 0.05).any() for _ in range(4000)) / 4000
    assert wrong == pytest.approx(0.05, abs=0.012)


def test_the_programme_never_spends_more_than_it_has():
    spent = np.cumsum([alpha_for(j) for j in range(1, 5000)])
    assert spent[-1] < 0.05
    assert alpha_for(1) == pytest.approx(0.0303964, abs=1e-7)


@few
@given(
    st.floats(0.001, 0.05),
    st.floats(0.002, 0.2),
    st.integers(1, 20),
    st.floats(0.01, 0.2),
    st.floats(0.5, 0.95),
)
def test_power_edge_and_years_are_one_formula(edge, te, ideas, alpha, target):
    years = years_to_decide(edge, te, ideas=ideas, alpha=alpha, power=target)
    if years < 1e-9:
        return
    assert power_of(edge, te, years, ideas=ideas, alpha=alpha) == pytest.approx(target, abs=1e-9)
    assert detectable_edge(te, years, ideas=ideas, alpha=alpha, power=target) == pytest.approx(edge, rel=1e-9)


def test_the_north_star_says_ten_years():
    said = power(tracking_error=0.01, ideas=5, edge=0.01)
    assert said.years == pytest.approx(10.04, abs=0.01)
    assert repr(said).startswith("about 10 years for 80%")


def test_the_naive_gate_is_what_it_says():
    rng = np.random.default_rng(3)
    base, own = rng.normal(0, 0.01, 600), rng.normal(0, 0.002, 600)
    from scipy.stats import ttest_1samp

    yes = []
    for t in range(251, 600):
        d = own[t - 251 : t + 1]
        if d.mean() * 252 > 0.01 and ttest_1samp(d, 0, alternative="greater").pvalue < 0.05:
            yes.append(t)
    answer = naive_gate(base + own, base)
    assert answer.days_fired == len(yes)
    assert answer.first_day == (yes[0] if yes else None)
    assert answer.looks == 349


def test_the_naive_gate_fires_on_leverage_and_on_noise():
    base = np.random.default_rng(2).normal(0.0012, 0.008, 800)
    assert naive_gate(1.3 * base, base).fired
    rng = np.random.default_rng(5)
    fired = sum(naive_gate(rng.normal(0, 0.002, 504), np.zeros(504)).fired for _ in range(200)) / 200
    assert fired > 0.15
