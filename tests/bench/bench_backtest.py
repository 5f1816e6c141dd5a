"""A backtest with every output, beside a bare loop that writes the same, and beside vectorbt and raptorbt.

The peers live in environments of their own, `make peers`, because they pin other versions than the house. Without the
environments their cases are skipped, and the line says so.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np
import polars as pl
from measuring import case, cpu, often
from numba import njit

from researchkit import frames
from researchkit.backtest import Costs
from researchkit.backtest.fills import Result, simulate
from researchkit.backtest.rules import Rules

PEERS = ("vectorbt", "raptorbt")
HOME = Path(__file__).parents[2] / ".peers"
SIZES = (2_500, 250_000, 2_500_000)


def market(bars: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A random walk of minute bars, and a target that changes on about every tenth."""
    rng, start = np.random.default_rng(seed), datetime(2000, 1, 3, tzinfo=UTC)
    close = 100 * np.exp(np.cumsum(0.0005 * rng.standard_normal(bars)))
    event = pl.datetime_range(start, start + timedelta(minutes=bars - 1), "1m", time_unit="ns", eager=True)
    known = event.dt.offset_by("1m")
    prices = {name: close.copy() for name in ("open", "high", "low", "close")}
    data = {
        "ts_event": event,
        "symbol": ["TST"] * bars,
        "ts_known": known,
        "ts_published": known,
        **prices,
        "volume": np.ones(bars, np.uint64),
    }
    steps = np.flatnonzero(rng.random(bars) < 0.1)
    target = rng.choice([0.0, 1.0], len(steps))
    signals = pl.DataFrame(
        {"ts_known": known.gather(steps), "symbol": ["TST"] * len(steps), "target": target}
    )
    return frames.conform(pl.DataFrame(data), frames.BARS), frames.conform(signals, frames.SIGNALS)


@njit(cache=True)
def bare_nb(ts, close, wanted, capital, fee, n_fills):
    """Write what a result holds, for one symbol, from quantities that are known already: no check, no frame."""
    n = close.size
    account, held, fills = np.empty((9, n)), np.empty((3, n)), np.empty((7, n_fills))
    stamps, held_ints, fill_ints = (
        np.empty(n, np.int64),
        np.empty((2, n), np.int64),
        np.empty((5, n_fills), np.int64),
    )
    quantity, mark, cash, h, f = 0.0, 0.0, capital, 0, 0
    for i in range(n):
        profit, cost, notional = 0.0, 0.0, 0.0
        if not np.isnan(wanted[i]) and wanted[i] != quantity:
            change, price = wanted[i] - quantity, close[i]
            notional = abs(change) * price
            cost = notional * fee
            cash -= change * price + cost
            profit = quantity * (price - mark)
            fills[0, f], fills[1, f], fills[2, f], fills[3, f] = change, price, cost, cost
            fills[4, f], fills[5, f], fills[6, f] = 0.0, 0.0, 0.0
            fill_ints[0, f], fill_ints[1, f], fill_ints[2, f], fill_ints[3, f], fill_ints[4, f] = (
                ts[i],
                0,
                f,
                0,
                ts[i],
            )
            quantity, mark, f = wanted[i], price, f + 1
        profit += quantity * (close[i] - mark)
        mark = close[i]
        value = quantity * mark
        if quantity != 0.0:
            held[0, h], held[1, h], held[2, h], held_ints[0, h], held_ints[1, h] = (
                quantity,
                mark,
                value,
                ts[i],
                0,
            )
            h += 1
        stamps[i], account[0, i], account[1, i], account[2, i] = ts[i], cash, value, cash + value
        account[3, i], account[4, i], account[5, i] = (
            profit / capital,
            (profit - cost) / capital,
            notional / capital,
        )
        account[6, i], account[7, i], account[8, i] = cost, abs(value) / capital, value / capital
    return stamps, account, held[:, :h], held_ints[:, :h], fills[:, :f], fill_ints[:, :f]


def skipped(name: str, size: str, why: str) -> None:
    """Say on a line of its own what was not measured."""
    print(
        json.dumps({"bench": "backtest", "case": f"beside {name}", "size": size, "skipped": why}),
        file=sys.stderr,
    )


def beside(name: str, size: str, data: dict[str, np.ndarray], ours, last: float, rounds: int = 5) -> None:
    """Take turns with a peer in another process, and print one line."""
    python = HOME / name / "bin" / "python"
    if not python.exists():
        skipped(name, size, f"{python} is missing: make peers builds it")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **data)
        words = [str(python), str(Path(__file__).parent / "peers.py"), name, str(path)]
        quiet = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet
        ) as peer:

            def theirs(times: int) -> dict[str, float]:
                print(times, file=peer.stdin, flush=True)
                return json.loads(peer.stdout.readline())

            first = theirs(1)
            counts = often(ours), max(1, min(200, int(0.2 / max(first["cpu"], 1e-6))))
            pairs = []
            for number in range(rounds):
                if number % 2:
                    b, a = theirs(counts[1])["cpu"], cpu(ours, counts[0])
                else:
                    a, b = cpu(ours, counts[0]), theirs(counts[1])["cpu"]
                pairs.append((a, b))
            peer.stdin.close()
    ratios = sorted(a / b for a, b in pairs)
    gap = abs(first["last"] - last) / 1e6
    same = (
        f"equity equal to {gap:.1e} of the capital"
        if name == "vectorbt"
        else "stakes the whole account: another equity"
    )
    line = {
        "bench": "backtest", "case": "one symbol, every output, checks included", "size": size,
        "cpu_ms": round(1e3 * statistics.median(a for a, _ in pairs), 4), "versus": f"{name} {first['version']}, {same}",
        "versus_cpu_ms": round(1e3 * statistics.median(b for _, b in pairs), 4),
        "ratio": float(f"{statistics.median(ratios):.3g}"), "ratio_low": float(f"{ratios[0]:.3g}"),
        "ratio_high": float(f"{ratios[-1]:.3g}"), "rounds": rounds,
    }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False), flush=True)


def peak() -> int:
    """Bytes of memory in use at the worst moment since the mark was last cleared."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def memory(bars: int) -> None:
    """How much more than its outputs a run takes at its worst moment; in a fresh process."""
    frame, signals = market(bars)
    simulate(*market(2_500), costs=Costs())
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be counted as free of charge
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    result = simulate(frame, signals, costs=Costs())
    used = peak() - before
    tables = (result.orders, result.fills, result.positions, result.equity, result.exposure, result.charges)
    made = sum(sum(column.to_physical().estimated_size() for column in t) for t in tables)
    line = {
        "bench": "backtest", "case": "memory at the worst moment, MB for ms", "size": f"{bars:,} bars", "cpu_ms": round(used / 1e6, 1),
        "versus": "the outputs themselves", "versus_cpu_ms": round(made / 1e6, 1), "ratio": float(f"{used / made:.3g}"),
        "ratio_low": float(f"{used / made:.3g}"), "ratio_high": float(f"{used / made:.3g}"), "rounds": 1,
    }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False), flush=True)


def everything(result: Result) -> float:
    """Touch every output, and say where the account ended."""
    tables = (result.orders, result.fills, result.positions, result.exposure, result.charges)
    assert all(t.height >= 0 for t in tables)
    return float(result.equity["equity"][-1])


def main() -> None:
    """One symbol, the whole result, three sizes, three peers; then the memory."""
    parser = argparse.ArgumentParser(description="Measure one backtest.")
    parser.add_argument("--memory", type=int, help="only the memory of a run of so many bars")
    given = parser.parse_args()
    if given.memory:
        memory(given.memory)
        return
    for bars in SIZES:
        frame, signals = market(bars)
        result = simulate(frame, signals, costs=Costs())
        close = frame["close"].to_numpy().copy()
        ts = frame["ts_known"].to_physical().to_numpy().copy()
        at = frame["ts_event"].search_sorted(result.fills["ts_event"]).to_numpy()
        size = np.full(bars, np.nan)
        size[at] = result.fills["quantity"].to_numpy()
        wanted = np.full(bars, np.nan)
        wanted[at] = result.fills["quantity"].cum_sum().to_numpy()
        n = result.fills.height

        def ours(frame: pl.DataFrame = frame, signals: pl.DataFrame = signals) -> float:
            return everything(simulate(frame, signals, costs=Costs()))

        case(
            "one symbol, every output, checks included",
            ours=ours,
            peer=lambda ts=ts, close=close, wanted=wanted, n=n: bare_nb(ts, close, wanted, 1e6, 1.5e-4, n),
            versus="a bare numba loop that writes the same outputs",
            size=f"{bars:,} bars",
        )
        if bars == SIZES[1]:
            case(
                "the same with a stop and a target on every trade",
                ours=lambda frame=frame, signals=signals: everything(
                    simulate(frame, signals, costs=Costs(), rules=Rules(stop=0.02, take=0.03))
                ),
                peer=ours,
                versus="the same without exits",
                size=f"{bars:,} bars",
            )
        data = {"ts": ts.astype("datetime64[ns]"), "close": close, "size": size, "fee": np.array(1.5e-4)}
        last = everything(result) - 1e6
        for name in PEERS:
            beside(name, f"{bars:,} bars", data, ours, last)
    if Path("/proc/self/clear_refs").exists():
        subprocess.run([sys.executable, __file__, "--memory", "2500000"], check=True)


if __name__ == "__main__":
    main()
