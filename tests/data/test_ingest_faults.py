"""Killed at each durable call site, and run by two processes at once: the rows are in the lake once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A warm process imports everything once, computes nothing itself, and forks a child for each attempt.
STREAM = r"""
import json, os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet, pyiceberg.catalog.sql, pyiceberg.io.pyarrow, sqlalchemy, alembic, tink, regopy

import researchkit.data.fileio
from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.encode import encode_bars
from researchkit.data.lake import Lake
from researchkit.data.pins import Pins
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.frames import BARS, conform
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install


def delivered():
    days = [datetime(2004, 12, 27, tzinfo=UTC) + timedelta(days=i) for i in range(10)]
    rows = pl.DataFrame({"ts_event": days * 2, "symbol": ["COMP"] * 10 + ["SPX"] * 10, "volume": 10})
    known, price = pl.col("ts_event") + pl.duration(days=1), pl.col("ts_event").dt.ordinal_day() + 0.25
    prices = {name: price for name in ("open", "high", "low", "close")}
    bars = conform(rows.with_columns(ts_known=known, ts_published=known, **prices), BARS)
    return encode_bars(bars, dataset="DEMO", schema="ohlcv-1d")


def desk(root):
    install(root / "policy")
    registry = Registry(f"sqlite:///{root}/catalog.db")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    raw = RawZone(root / "raw", registry=registry, keyring=Keyring(root / "keys"), door=door, immutable=False)
    return registry, door, raw, Lake(root / "lake", registry=registry, raw=raw, door=door)


def stream(root):
    registry, door, raw, lake = desk(root)
    me = Context(Principal("tester", ("data-engineer", "quant")))
    found = raw.put(delivered(), name="a.dbn.zst", key="demo", context=me)
    lake.ingest(found.sha256, context=me)
    pins = Pins(registry=registry, lake=lake, door=door)
    pin = pins.create("all", ["DEMO/ohlcv-1d"], context=me)
    assert pins.create("own", ["DEMO/ohlcv-1d"], objects=[found.sha256], context=me).id == pin.id
    kinds = [e.kind for e in door.ledger.entries()]
    return {
        "rows": lake.scan("DEMO/ohlcv-1d", context=me).collect().height,
        "held": int(lake.tables()["rows"][0]),
        "files": len(lake.verify()),
        "pin": pin.id,
        "objects": len(raw.objects()),
        "sound": all(f.ok for f in [*raw.verify(), *lake.verify(), *pins.findings(pin)]),
        "once": [kinds.count(k) for k in ("object", "ingest", "pin")],
        "chain": door.ledger.verify().entries > 0,
    }


def fork(root, out, kill=None, count=None):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update({k: v for k, v in (("RESEARCHKIT_KILL_AT", kill), ("RESEARCHKIT_KILL_COUNT", count)) if v})
        out.write_text(json.dumps(stream(root)))
        code = 0
    except BaseException as e:
        out.write_text(json.dumps({"failed": repr(e)}))
    finally:
        os._exit(code)


def died(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
"""


def run(script: str, tmp_path: Path) -> dict:
    """Run `STREAM` and then `script` in a fresh interpreter; it prints one JSON line at the end."""
    environ = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STREAM + script, str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


KILLS = r"""
base = Path(sys.argv[1])
count = base / "count"
died(fork(base / "whole", base / "whole.json", count=str(count)))
whole = json.loads((base / "whole.json").read_text())
lines = count.read_text().splitlines()
sites = list(dict.fromkeys(lines))
kills = [f"{s}:1" for s in sites] + [f"{s}:{lines.count(s)}" for s in sites if s.split(":")[0] in ("commit", "ingest", "entry")]
answers = {}
for i, kill in enumerate(kills):
    root, out, hits = base / f"w{i}", base / f"{i}.json", base / f"hits{i}"
    killed = died(fork(root, out, kill, str(hits)))
    half = out.exists()
    died(fork(root, out))
    answers[kill] = {"killed": killed, "half": half, "then": json.loads(out.read_text())}
print(json.dumps({"whole": whole, "hits": {s: lines.count(s) for s in sites}, "answers": answers}))
"""


def test_killed_once_at_each_site_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    told = run(KILLS, tmp_path)
    whole = told["whole"]
    assert (whole["rows"], whole["held"], whole["files"], whole["objects"]) == (20, 20, 2, 1), whole
    assert whole["once"] == [1, 1, 1]
    assert whole["chain"]
    assert whole["sound"]
    print("\nhits:", ", ".join(f"{site} {n}" for site, n in sorted(told["hits"].items())))
    for site in ("object", "ingest", "commit", "entry", "pin"):
        assert told["hits"].get(f"{site}:before", 0) > 0, site
        assert told["hits"].get(f"{site}:after", 0) > 0, site
    for kill, answer in told["answers"].items():
        assert answer["killed"], kill
        assert not answer["half"], kill
        assert answer["then"] == whole, kill


LATER = r"""
sys.path.insert(0, str(Path(os.environ["HERE"])))
import test_ingest_rows as rows
from researchkit.data import tables
from researchkit.data.ingest import ingest, ingest_many


def stream(root):
    registry, door, raw, lake = desk(root)
    parts = {"raw": raw, "catalog": lake.catalog, "index": lake._index, "context": rows.ME}

    def put(content, name):
        return raw.put(content, name=name, key="demo", context=rows.ME).sha256

    first = rows.trades(*[("ESH4", 9 + i / 1000, 100 + i) for i in range(300)])
    first["price"][17] = 10**18
    again = first[[i for i in range(300) if i != 5]]
    again["price"][50] += 10**9
    ingest_many([put(rows.file(first, "ESH4"), "day"), put(rows.day_file(3), "3"), put(rows.day_file(4), "4")], **parts)
    ingest(put(rows.file(again, "ESH4"), "day"), **parts)
    ask = lambda words: [list(row.values()) for row in registry.rows(f"SELECT {words}")]
    return {
        "files": len(tables.planned(lake.catalog.load_table(("demo", "trades")))),
        "bad": ask("reason, rows FROM quarantined ORDER BY raw_sha256"),
        "restated": ask("retracted, added FROM restatements"),
        "symbols": ask("symbol, rows FROM lake_symbols ORDER BY symbol"),
        "months": ask("symbol, month, rows FROM lake_months ORDER BY symbol"),
        "ingests": ask("rows, held FROM ingests ORDER BY raw_sha256"),
        "shared": ask("rows FROM shared_files"),
        "indexed": ask("COUNT(*) FROM lake_files"),
        "lines": [e.kind for e in door.ledger.entries()].count("ingest"),
        "sound": all(f.ok for f in lake.verify()),
    }


base = Path(sys.argv[1])
count = base / "count"
died(fork(base / "whole", base / "whole.json", count=str(count)))
whole = json.loads((base / "whole.json").read_text())
hits, kills = {}, []
for line in count.read_text().splitlines():
    hits[line] = hits.get(line, 0) + 1
    if line.split(":")[0] in ("commit", "ingest"):
        kills.append(f"{line}:{hits[line]}")
answers = {}
for kill in kills[5::11]:
    root, out = base / kill.replace(":", "-"), base / f"{kill.replace(':', '-')}.json"
    killed = died(fork(root, out, kill, str(base / f"hits-{kill}")))
    died(fork(root, out))
    answers[kill] = {"killed": killed, "then": json.loads(out.read_text())}
print(json.dumps({"whole": whole, "answers": answers}))
"""


def test_killed_among_bad_rows_and_restatements_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", str(Path(__file__).parent))
    told = run(LATER, tmp_path)
    whole = told["whole"]
    assert whole["restated"] == [[2, 1]], whole
    assert whole["ingests"].count([2, 2]) == 2, whole
    assert [1, 298] in whole["ingests"], whole
    assert len(whole["bad"]) == 2
    assert whole["sound"]
    assert len(told["answers"]) >= 4
    for kill, answer in told["answers"].items():
        assert answer["killed"], kill
        assert answer["then"] == whole, kill


TOGETHER = r"""
base = Path(sys.argv[1])
died(fork(base / "first", base / "first.json"))  # the folders and databases of a workspace exist
pids = [fork(base / "w", base / f"{i}.json") for i in range(3)]
for pid in pids:
    died(pid)
print(json.dumps([json.loads((base / f"{i}.json").read_text()) for i in range(3)]))
"""


def test_three_processes_at_once_give_the_rows_once(tmp_path: Path) -> None:
    answers = run(TOGETHER, tmp_path)
    for answer in answers:
        assert "failed" not in answer, answer
        assert (answer["rows"], answer["held"], answer["objects"]) == (20, 20, 1)
        assert answer["once"][:2] == [1, 1]
    assert len({a["pin"] for a in answers}) == 1


@pytest.mark.parametrize("name", ["researchkit.data.lake", "researchkit.data.pins", "researchkit.data.raw"])
def test_importing_is_light(name: str) -> None:
    heavy = ("pyiceberg", "pyarrow", "tink", "databento_dbn", "regopy", "pandas")
    code = f"import sys, {name}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
