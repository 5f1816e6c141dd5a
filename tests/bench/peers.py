"""One peer in an environment of its own: reads requests, runs a backtest, answers with the processor's seconds.

    .peers/vectorbt/bin/python tests/bench/peers.py vectorbt data.npz

Each line on standard input is a number of runs; each line on standard output a JSON object.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from importlib.metadata import version

import numpy as np


def vectorbt(data):
    """The same quantities at the same closes, with everything that our result holds materialised."""
    import pandas as pd
    import vectorbt as vbt

    index = pd.DatetimeIndex(data["ts"])
    close = pd.Series(data["close"], index=index)
    size = pd.Series(data["size"], index=index)

    def run():
        book = vbt.Portfolio.from_orders(
            close, size=size, price=close, fees=float(data["fee"]), init_cash=1e9, freq="1min"
        )
        made = book.value(), book.cash(), book.assets(), book.returns(), book.orders.records
        return float(made[0].iloc[-1]) - 1e9

    return run


def raptorbt(data):
    """Long entries and exits of the same targets; it stakes the whole account, so its equity is another one."""
    import raptorbt

    config = raptorbt.BacktestConfig(initial_capital=1e6, fees=float(data["fee"]))
    close, volume = data["close"], np.ones(data["close"].size)
    entries, exits = data["size"] > 0, data["size"] < 0

    def run():
        made = raptorbt.run_single_backtest(
            data["ts"].astype("int64"), close, close, close, close, volume, entries, exits, config=config
        )
        kept = made.equity_curve(), made.drawdown_curve(), made.returns(), made.trades()
        return float(kept[0][-1])

    return run


def main():
    """Answer until the input ends."""
    run = {"vectorbt": vectorbt, "raptorbt": raptorbt}[sys.argv[1]](dict(np.load(sys.argv[2])))
    last = run()
    for line in sys.stdin:
        times = int(line)
        gc.collect()
        gc.disable()
        begun = time.process_time()
        for _ in range(times):
            last = run()
        used = (time.process_time() - begun) / times
        gc.enable()
        sys.stdout.write(json.dumps({"cpu": used, "last": last, "version": version(sys.argv[1])}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
