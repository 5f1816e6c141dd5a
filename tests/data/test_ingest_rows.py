"""What deliveries make of a table: rows once, corrections as of their day, bad rows aside, many in one commit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from researchkit.context import Context, Principal, parse_table
from researchkit.data import tables
from researchkit.data.door import Door
from researchkit.data.encode import encode
from researchkit.data.envelope import layout
from researchkit.data.ingest import Index, ingest, ingest_many
from researchkit.data.layouts import Layout, layout_of, restored
from researchkit.data.quarantine import ward_of
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.errors import IntegrityError, SchemaError
from researchkit.frames import TRADES, check
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

ME = Context(Principal("tester", ("data-engineer", "quant")))
TABLE = "DEMO/trades"
DAY, HOUR = 86_400 * 10**9, 3_600 * 10**9
T0 = 19_723 * DAY  # 2024-01-01


@pytest.fixture
def ws(tmp_path: Path) -> SimpleNamespace:
    install(tmp_path / "policy")
    registry = Registry(f"sqlite:///{tmp_path}/catalog.db")
    door = Door(Policy(tmp_path / "policy"), Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    now = [T0 + 16 * HOUR + HOUR // 2]

    def clock() -> int:
        return now[0]

    raw = RawZone(
        tmp_path / "raw",
        registry=registry,
        keyring=Keyring(tmp_path / "keys"),
        door=door,
        immutable=False,
        clock=clock,
    )
    catalog = tables.open_catalog(registry.engine, tmp_path / "lake")
    parts = {
        "raw": raw,
        "catalog": catalog,
        "index": Index(tmp_path / "lake", registry, door, clock),
        "context": ME,
    }

    def put(content: bytes, name: str) -> str:
        return str(raw.put(content, name=name, key="demo", context=ME).sha256)

    def held(asof: int | None = None) -> pl.DataFrame:
        """The table as a reader sees it, worked out plainly."""
        plan = layout_of(parse_table(TABLE))
        paths = tables.planned(catalog.load_table(parse_table(TABLE).identifier))
        rows = pl.concat([pl.read_parquet(tmp_path / "lake" / p) for p in paths], how="diagonal_relaxed")
        rows = rows.with_columns(
            ts_published=pl.coalesce("ts_published", pl.max_horizontal("ts_event", "ts_recv")),
            back=pl.col("retracted").fill_null(value=False),
        )
        rows = rows if asof is None else rows.filter(pl.col("ts_published") <= asof)
        newest = rows.sort("ts_published").unique(list(TRADES.key), keep="last")
        found = newest.filter(~pl.col("back")).drop("back")
        return check(restored(found, plan).select(list(TRADES.columns)).sort(TRADES.key), TRADES)

    return SimpleNamespace(
        root=tmp_path, put=put, parts=parts, held=held, registry=registry, door=door, catalog=catalog, now=now
    )


def trades(*rows: tuple[str, float, int], seconds: float = 0.0) -> np.ndarray:
    """Records: symbol, hour of the day, price in whole dollars; sequences in order."""
    found = np.zeros(len(rows), layout("trades"))
    for i, (symbol, hour, price) in enumerate(rows):
        found[i]["instrument_id"] = {"ESH4": 7, "NQH4": 8}[symbol]
        found[i]["ts_event"] = found[i]["ts_recv"] = T0 + int(hour * HOUR)
        found[i]["price"], found[i]["size"], found[i]["sequence"] = price * 10**9, 1, i
    found["side"], found["action"] = b"B", b"T"
    return found


def file(records: np.ndarray, *symbols: str, days: int = 1) -> bytes:
    """A delivery that was asked for whole days of the symbols."""
    ids = {s: n for s, n in (("ESH4", 7), ("NQH4", 8)) if not symbols or s in symbols}
    return encode(records, dataset="DEMO", schema="trades", ids=ids, span=(T0, T0 + days * DAY))


FIRST = trades(("ESH4", 9, 100), ("ESH4", 10, 101), ("ESH4", 11, 102))


def test_a_cancelled_trade_is_gone_from_the_day_on_which_it_was_cancelled(ws: SimpleNamespace) -> None:
    ingest(ws.put(file(FIRST, "ESH4"), "day.dbn.zst"), **ws.parts)
    [before] = tables.planned(ws.catalog.load_table(("demo", "trades")))
    again = ws.put(file(FIRST[[0, 2]], "ESH4"), "day.dbn.zst")
    done = ingest(again, **ws.parts)
    assert (done.rows, done.held, done.retracted) == (0, 2, 1)
    noon, late = ws.held(T0 + 12 * HOUR), ws.held(T0 + 17 * HOUR)
    assert noon["price"].cast(pl.Int64).to_list() == [100, 101, 102]
    assert late["price"].cast(pl.Int64).to_list() == [100, 102]
    [row] = ws.registry.rows("SELECT * FROM restatements")
    assert (row["retracted"], row["added"], row["published_ns"]) == (1, 0, T0 + 16 * HOUR + HOUR // 2)
    assert pl.read_parquet(ws.root / "lake" / before).height == 3  # what a pin lists stays as it was
    line = ws.door.ledger.entries(kind="ingest")[-1].body
    assert line["restated"]["retracted"] == 1


def test_a_changed_and_a_new_trade_carry_the_day_of_the_restatement(ws: SimpleNamespace) -> None:
    ingest(ws.put(file(FIRST, "ESH4"), "day.dbn.zst"), **ws.parts)
    changed = FIRST.copy()
    changed["price"][1] = 999 * 10**9
    ingest(ws.put(file(changed, "ESH4"), "day.dbn.zst"), **ws.parts)
    ws.now[0] += DAY
    ingest(ws.put(file(changed[[0, 1, 2, 2]], "ESH4"), "day.dbn.zst"), **ws.parts)
    assert ws.held(T0 + 12 * HOUR)["price"].cast(pl.Int64).to_list() == [100, 101, 102]
    assert ws.held(T0 + 17 * HOUR)["price"].cast(pl.Int64).to_list() == [100, 999, 102]
    assert ws.held()["price"].cast(pl.Int64).to_list() == [100, 999, 102, 102]
    assert (ws.held()["ordinal"] >= 1 << 40).to_list() == [False, True, False, True]


def test_the_same_name_for_another_symbol_takes_nothing_back(ws: SimpleNamespace) -> None:
    ingest(ws.put(file(FIRST, "ESH4"), "day.dbn.zst"), **ws.parts)
    other = trades(("NQH4", 9, 500))
    done = ingest(ws.put(file(other, "NQH4"), "day.dbn.zst"), **ws.parts)
    assert (done.rows, done.retracted) == (1, 0)
    assert ws.held().height == 4
    assert ws.registry.rows("SELECT * FROM restatements") == []


def test_equal_ticks_of_two_objects_are_one_row_each_as_often_as_it_is_there(ws: SimpleNamespace) -> None:
    twice = FIRST[[0, 0, 1]]
    ingest(ws.put(file(twice, "ESH4"), "january.dbn.zst"), **ws.parts)
    more = trades(("NQH4", 8, 7), ("ESH4", 9, 100), ("ESH4", 9, 100), ("ESH4", 9, 100))
    more["sequence"][1:] = 0
    done = ingest(ws.put(file(more), "year.dbn.zst"), **ws.parts)
    assert (done.rows, done.held) == (2, 4)
    assert ws.held().height == 5
    [share] = ws.registry.rows("SELECT rows FROM shared_files")
    assert share["rows"] == 2


def test_a_restatement_of_many_rows_is_settled_window_by_window(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    rows = np.zeros(4_000, layout("trades"))
    rows["instrument_id"] = rng.choice([7, 8], 4_000, p=[0.8, 0.2])
    rows["ts_recv"] = T0 + np.sort(rng.integers(0, 2 * DAY, 4_000))
    rows["ts_event"] = rows["ts_recv"] - rng.integers(0, HOUR, 4_000)
    rows["ts_event"] = np.maximum(rows["ts_event"], T0)
    rows["price"], rows["size"] = 10**9 * rng.integers(1, 50, 4_000), rng.integers(1, 3, 4_000)
    rows["sequence"], rows["side"], rows["action"] = np.arange(4_000), b"A", b"T"
    from researchkit.data import giving, intake

    monkeypatch.setattr(giving, "WINDOW", 100 * 48)
    monkeypatch.setattr(intake, "CHUNK", 300 * 48)
    monkeypatch.setattr(giving, "LARGE", 800 * 48)
    ingest(ws.put(file(rows, days=2), "two.dbn.zst"), **ws.parts)
    paths = tables.planned(ws.catalog.load_table(("demo", "trades")))
    assert sorted(p.rpartition(".")[0][-2:] for p in paths if "01-01" in p)[:2] == ["-1", "-2"]
    for name in (
        "ingests",
        "lake_files",
        "lake_symbols",
        "lake_months",
    ):  # as a kill after the commit leaves it
        ws.registry.write((f"DELETE FROM {name} WHERE 1 = :one", [{"one": 1}]))
    assert ingest(ws.put(file(rows, days=2), "two.dbn.zst"), **ws.parts).held == 4_000
    keep = rng.random(4_000) > 0.01
    second = rows[keep]
    second["price"][::97] += 1
    ws.now[0] = T0 + 5 * DAY
    monkeypatch.setattr(giving, "WINDOW", 170 * 48)
    done = ingest(ws.put(file(second, days=2), "two.dbn.zst"), **ws.parts)
    changed = len(second[::97])
    assert (done.rows, done.retracted) == (changed, int((~keep).sum()) + changed)
    columns = ["ts_event", "symbol", "sequence", "price", "size"]
    now = ws.held().select(columns).sort(columns)
    alone = pl.DataFrame(
        {
            "ts_event": second["ts_event"].astype(np.int64),
            "symbol": np.where(second["instrument_id"] == 7, "ESH4", "NQH4"),
            "sequence": second["sequence"],
            "price": second["price"],
            "size": second["size"],
        }
    )
    plain = now.with_columns(pl.col("ts_event").to_physical(), pl.col("price").to_physical().cast(pl.Int64))
    assert plain.equals(alone.sort(columns))
    assert ws.held(T0 + 4 * DAY).height == 4_000


def test_bad_rows_wait_aside_and_the_others_come_in(ws: SimpleNamespace) -> None:
    rows = trades(*[("ESH4", 9 + i / 1_000, 100) for i in range(300)])
    rows["price"][17] = 10**18
    rows["ts_recv"][200] = 2**64 - 1
    sha256 = ws.put(file(rows, "ESH4"), "bad.dbn.zst")
    done = ingest(sha256, **ws.parts)
    assert (done.rows, done.quarantined) == (298, 2)
    reasons = {r["reason"]: r["rows"] for r in ws.registry.rows("SELECT reason, rows FROM quarantined")}
    assert reasons == {"no ts_recv": 1, "price out of range": 1}
    table = ws.catalog.load_table(ward_of(parse_table(TABLE)).identifier)
    [task] = table.scan().plan_files()
    aside = pl.read_parquet(ws.root / "lake" / task.file.file_path.removeprefix("lake://"))
    assert sorted(aside["ordinal"].to_list()) == [17, 200]
    assert set(aside["raw_sha256"]) == {sha256}
    assert ingest(sha256, **ws.parts).new is False
    assert len(list(table.refresh().scan().plan_files())) == 1
    assert ws.held().height == 298


def test_a_file_with_too_many_bad_rows_is_refused_whole(ws: SimpleNamespace) -> None:
    rows = trades(*[("ESH4", 9, 100)] * 50)
    rows["instrument_id"][:2] = 9
    content = file(trades(("ESH4", 9, 100)), "ESH4")
    import zstandard

    head = zstandard.decompress(content)[:-48]
    rows["length"], rows["rtype"] = 12, 0
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(head + rows.tobytes())
    with pytest.raises(
        IntegrityError, match=r"2 of 50 rows \(4.0 %\) break a rule, at most 1 % may: 2 no symbol"
    ):
        ingest(ws.put(whole, "bad.dbn.zst"), **ws.parts)
    assert ws.registry.rows("SELECT * FROM lake_files") == []
    assert not list((ws.root / "lake").rglob("*.parquet"))


def test_a_table_takes_only_its_own_schema(ws: SimpleNamespace) -> None:
    found = ws.parts["raw"].put(file(FIRST, "ESH4"), name="a", key="demo", context=ME, table="DEMO/tbbo")
    with pytest.raises(SchemaError, match="holds trades, rule: tbbo"):
        ingest(found.sha256, **ws.parts)


def day_file(day: int) -> bytes:
    rows = trades(("ESH4", 9, 100 + day), ("NQH4", 10, 200 + day))
    rows["ts_event"] += np.uint64(day * DAY)
    rows["ts_recv"] += np.uint64(day * DAY)
    return encode(
        rows,
        dataset="DEMO",
        schema="trades",
        ids={"ESH4": 7, "NQH4": 8},
        span=(T0 + day * DAY, T0 + (day + 1) * DAY),
    )


def test_many_objects_share_one_commit(ws: SimpleNamespace) -> None:
    objects = [ws.put(day_file(d), f"{d:02}.dbn.zst") for d in range(12)]
    told: list[tuple[str, int, int | None]] = []
    done = ingest_many(objects, **ws.parts, progress=lambda *step: told.append(step))
    assert [d.raw_sha256 for d in done] == objects
    assert len({d.snapshot for d in done}) == 1
    assert len(ws.catalog.load_table(("demo", "trades")).metadata.snapshots) == 1
    assert told[:2] == [("read", 2, None), ("write", 2, 2)]
    assert [d.new for d in ingest_many(objects, **ws.parts)] == [False] * 12
    assert ws.held().height == 24
    months = ws.registry.rows("SELECT symbol, month, rows FROM lake_months ORDER BY symbol")
    assert [(m["symbol"], m["month"], m["rows"]) for m in months] == [
        ("ESH4", 202401, 12),
        ("NQH4", 202401, 12),
    ]
    known = ws.registry.rows("SELECT symbol, since_ns FROM symbology WHERE instrument_id = 8")
    assert len(known) == 12


def test_interrupted_in_the_middle_it_goes_on_where_it_was(ws: SimpleNamespace) -> None:
    objects = [ws.put(day_file(d), f"{d:02}.dbn.zst") for d in range(6)]

    def stop(phase: str, done: int, total: int | None) -> None:
        stop.calls += 1  # type: ignore[attr-defined]
        if stop.calls == 7:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    stop.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        ingest_many(objects, **ws.parts, progress=stop)
    assert ws.held().height == 6  # three were finished, and are kept
    done = ingest_many(objects, **ws.parts)
    assert [d.new for d in done] == [False] * 3 + [True] * 3
    assert ws.held().height == 12


def test_versions_of_one_name_in_one_call_are_told_apart(ws: SimpleNamespace) -> None:
    first = ws.put(file(FIRST, "ESH4"), "day.dbn.zst")
    ws.now[0] += 1
    second = ws.put(file(FIRST[[0, 2]], "ESH4"), "day.dbn.zst")
    one, two = ingest_many([first, second], **ws.parts)
    assert (one.rows, two.rows, two.retracted) == (3, 0, 1)


def test_a_table_in_buckets_gets_a_file_a_bucket(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = layout_of(parse_table(TABLE))
    from researchkit.data import layouts

    in_buckets = Layout(plan.frame, plan.step, plan.vendor, 4, plan.schema)
    monkeypatch.setattr(layouts, "layout_of", lambda resource: in_buckets)
    monkeypatch.setattr(tables, "layout_of", lambda resource: in_buckets)
    ingest(ws.put(day_file(0), "0.dbn.zst"), **ws.parts)
    paths = tables.planned(ws.catalog.load_table(("demo", "trades")))
    parts = [r["part"] for r in ws.registry.rows("SELECT part FROM lake_files ORDER BY part")]
    wanted = sorted(f"day=2024-01-01/bucket={layouts.bucket_of(s, 4)}" for s in ("ESH4", "NQH4"))
    assert parts == sorted(set(wanted))
    assert len(paths) == len(parts)


def test_a_list_kept_by_hand_restates_itself(ws: SimpleNamespace) -> None:
    head = "symbol,kind,ex,ratio\n"
    raw = ws.parts["raw"]
    for rows in ("ACME,split,2013-05-06,2\nACME,split,2013-05-07,3\n", "ACME,split,2013-05-07,3\n"):
        put = raw.put((head + rows).encode(), name="splits.csv", key="demo", context=ME, table="HAND/actions")
        done = ingest(put.sha256, **ws.parts)
        ws.now[0] += DAY
    assert (done.rows, done.held, done.retracted) == (0, 1, 1)


def test_the_day_of_a_correction_can_be_said(ws: SimpleNamespace) -> None:
    ingest(ws.put(file(FIRST, "ESH4"), "day.dbn.zst"), **ws.parts)
    fixed = FIRST.copy()
    fixed["price"][0] = 7 * 10**9
    day = datetime(2024, 3, 1, tzinfo=UTC)
    done = ingest(ws.put(file(fixed, "ESH4"), "other.dbn.zst"), published=day, **ws.parts)
    assert (done.rows, done.retracted) == (1, 1)
    assert ws.held(T0 + DAY)["price"].cast(pl.Int64).to_list() == [100, 101, 102]
    assert ws.held()["price"].cast(pl.Int64).to_list() == [7, 101, 102]
