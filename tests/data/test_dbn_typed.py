"""Typed batches say what the vendor's own reader says, in every version, at any batch size, in bounded memory."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
from datetime import date
from decimal import Decimal
from pathlib import Path

import databento_dbn
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.data import dbn
from researchkit.data.encode import encode
from researchkit.data.envelope import LAYOUTS, Header, layout, open_records, sha256_of
from researchkit.data.recording import contents, open_recorded
from researchkit.data.typed import batches, rebatched, typed
from researchkit.errors import IntegrityError, ResearchKitError, SchemaError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))

import fuzz

REAL = Path(os.environ.get("RESEARCHKIT_TEST_DATA", "/nonexistent"))
FILES = [
    p
    for p in sorted((REAL / "dbn").rglob("*.dbn*"))
    if ".frag" not in p.name
    and p.parent.name != "LIVE"
    and not (p.parent.name == "format" and "1d" in p.name)
]


def header_of(schema: str, version: int) -> Header:
    return Header("x", version, "D", schema, 0, None, None, "instrument_id", (), {}, False)


def table(source: Path | bytes, **given: object) -> pa.Table:
    return pa.Table.from_batches(list(batches(source, **given)[1]))


def physical(column: pa.ChunkedArray) -> list[object]:
    """Values as the vendor writes them, nothing as None."""
    series = pl.from_arrow(column)
    return series.to_physical().to_list() if series.dtype != pl.String else series.to_list()


def upgraded(stored: bytes) -> np.ndarray:
    """Every record as the vendor's own decoder gives it in version 3."""
    decoder = databento_dbn.DBNDecoder(upgrade_policy=databento_dbn.VersionUpgradePolicy.UPGRADE_TO_V3)
    decoder.write(fuzz.plain_of(stored))
    metadata, *records = decoder.decode()
    return np.frombuffer(b"".join(bytes(r) for r in records), layout(str(metadata.schema)))


def compared(stored: bytes) -> None:
    """Field by field against the vendor's records, which it upgrades to version 3 as we do."""
    theirs, ours = upgraded(stored), table(stored)
    assert set(ours.column_names) == {
        n for n in theirs.dtype.names if not n.startswith("_") and n not in ("length", "rtype")
    }
    for name in ours.column_names:
        kind, values, found = ours.schema.field(name).type, theirs[name], physical(ours[name])
        if kind == pa.string():
            assert found == [bytes(v).partition(b"\0")[0].decode() for v in values]
            continue
        none = np.iinfo(values.dtype).max
        if pa.types.is_timestamp(kind):
            none = 2**64 - 1
        assert [none if v is None else v for v in found] == values.tolist(), name
        if pa.types.is_decimal(kind) or pa.types.is_timestamp(kind):
            assert none not in found


def test_the_vendors_reader_says_the_same_of_every_schema_and_version():
    for one in fuzz.originals():
        if one.kind == "zstd" and one.schema != "mixed" and len(one.content) < 100_000:
            compared(one.stored)


def test_the_vendors_reader_says_the_same_of_its_own_files():
    for path in FILES:
        compared(path.read_bytes())


def test_three_versions_of_a_real_file_are_one_table():
    for schema in (
        ("definition", "statistics", "trades", "mbo", "mbp-10", "imbalance") if REAL.is_dir() else ()
    ):
        found = [table(REAL / f"dbn/format/test_data.{schema}.v{v}.dbn.zst") for v in (1, 2, 3)]
        assert found[0].schema == found[1].schema == found[2].schema
        assert found[0].equals(found[1])
        assert found[1].equals(found[2]), schema


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("schema", LAYOUTS)
def test_any_bits_become_a_row_or_a_refusal(schema, version):
    """Random records: every integer comes back, or the field that cannot be is named."""
    chance = np.random.default_rng(version)
    kind = layout(schema, version=version)
    records = np.frombuffer(chance.bytes(kind.itemsize * 64), kind).copy()
    with pytest.raises(IntegrityError, match=r"^x: record \d+ has \w+ "):
        typed(records, header_of(schema, version))
    for name in kind.names:
        if kind[name].kind == "S":
            records[name] = b"A"
        elif kind[name] == np.uint64:
            records[name] &= np.uint64(2**63 - 1)
    batch = typed(records, header_of(schema, version))
    for name in set(batch.schema.names) & set(kind.names):
        if kind[name].kind != "S":
            found = physical(pa.chunked_array([batch.column(name)]))
            assert [
                b if a is None else a for a, b in zip(found, records[name].tolist(), strict=True)
            ] == records[name].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=9), st.integers(1, 12))
def test_joining_and_cutting_loses_nothing(lengths, rows):
    places = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1]) if lengths else []
    found = list(rebatched(iter(places), rows))
    assert [len(a) for a in found[:-1]] == [rows] * max(len(found) - 1, 0)
    assert np.concatenate([*found, np.empty(0, int)]).tolist() == list(range(sum(lengths)))


def trades(count: int) -> bytes:
    records = np.zeros(count, layout("trades"))
    records["instrument_id"], records["sequence"], records["side"] = 1, np.arange(count), b"A"
    records["price"] = 10**9 + np.arange(count)
    return encode(records, dataset="DEMO", schema="trades", ids={"AAA": 1}, span=(0, 10**9))


def test_a_file_is_the_same_at_any_batch_size_and_from_a_stream():
    file = trades(10_000)
    whole = table(file)
    assert whole["price"][9_999].as_py() == Decimal("1.000009999")
    for rows in (1_000, 4_096, 9_999, 20_000):
        header, found = batches(io.BytesIO(file), sha256=sha256_of(file), rows=rows)
        parts = list(found)
        assert [p.num_rows for p in parts[:-1]] == [rows] * (len(parts) - 1)
        assert pa.Table.from_batches(parts).equals(whole)
        assert header.verifiable
    cut = batches(io.BytesIO(file), sha256="0" * 64)[1]
    with pytest.raises(IntegrityError, match=r"this stream: SHA-256 is .* rule: 0000"):
        list(cut)


def peak_of(source: bytes) -> float:
    """The greatest memory that reading to the end takes, in MiB, or till the refusal."""
    tracemalloc.start()
    try:
        for batch in batches(source, rows=8_192)[1]:
            del batch
    except ResearchKitError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak / 2**20


def test_memory_does_not_grow_with_the_file():
    small, large = trades(40_000), trades(400_000)
    assert peak_of(large) < peak_of(small) + 2


def test_a_few_kilobytes_do_not_become_gigabytes():
    """A frame of blocks that repeat one byte: each is unpacked alone, and the first record ends it."""
    head = bytes(
        databento_dbn.Metadata(
            dataset="D", start=0, stype_in=databento_dbn.SType.RAW_SYMBOL, stype_out=databento_dbn.SType.INSTRUMENT_ID,
            schema=databento_dbn.Schema.TRADES, version=3,
        )
    )  # fmt: skip
    bomb = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(head + bytes(64 << 20))
    assert len(bomb) < 10_000
    assert peak_of(bomb) < 4


def test_a_header_that_claims_the_whole_file_is_refused_at_once():
    claims = bytearray(zstandard.ZstdDecompressor().decompress(trades(3)))
    claims[4:8] = (2**32 - 10).to_bytes(4, "little")
    with pytest.raises(
        IntegrityError, match=r"its header says it has 4294967294 bytes, rule: 26 to 1073741824"
    ):
        open_records(bytes(claims))


# live recordings


def session(version: int, count: int) -> bytes:
    """Names, trades and bars in turn, and a number that changes its meaning on the second day."""
    space = databento_dbn
    day = 86_400 * 10**9
    kind = np.dtype(getattr(space, f"v{version}").SymbolMappingMsg._dtypes)

    def named(symbol: str, at: int) -> bytes:
        record = np.zeros(1, kind)
        record["length"], record["rtype"], record["instrument_id"] = kind.itemsize // 4, 0x16, 7
        record["stype_out_symbol"], record["ts_event"] = symbol, at
        return record.tobytes()

    def some(schema: str, start: int) -> bytes:
        records = np.zeros(count, layout(schema, version=version))
        records["length"], records["rtype"] = records.itemsize // 4, LAYOUTS[schema][1]
        records["instrument_id"], records["ts_event"] = 7, start + np.arange(count)
        if schema == "trades":
            records["ts_recv"], records["side"], records["price"] = records["ts_event"], b"B", 10**9
        return records.tobytes()

    head = space.Metadata(
        dataset="GLBX.MDP3",
        start=0,
        stype_in=None,
        stype_out=space.SType.INSTRUMENT_ID,
        schema=None,
        version=version,
    )
    body = [named("ESH1", 0), some("trades", 5), some("ohlcv-1s", 0), named("ESM1", day), some("trades", day)]
    return bytes(head) + b"".join(body)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 700])
def test_a_recording_is_one_stream_a_schema(version, count):
    file = session(version, count)
    seen = dbn.inspect(file)
    assert seen.holds == {"symbol": 2, "trades": 2 * count, "ohlcv-1s": count}
    assert (seen.symbols, seen.schema, seen.verifiable) == (("ESH1", "ESM1"), "mixed", False)
    header, found = batches(file, schema="trades", rows=100)
    assert sum(b.num_rows for b in found) == 2 * count
    assert header.mappings["ESM1"][0]["start_date"] == date(1970, 1, 2)
    rows = dbn.read(file, schema="trades")
    assert rows["symbol"].value_counts(sort=True).sort("symbol").rows() == [("ESH1", count), ("ESM1", count)]
    assert rows["ordinal"].to_list() == list(range(2 * count))
    for cut in (1, 20, 47):
        with pytest.raises(IntegrityError, match="truncated"):
            contents(file[:-cut])
    with pytest.raises(SchemaError, match="rule: it is read twice, so not from a stream"):
        open_recorded(io.BytesIO(file), "trades")


def test_the_real_recording_is_read_schema_by_schema():
    for path in (REAL / "dbn" / "samples" / "LIVE").glob("*.zst"):
        seen, count = dbn.inspect(path), 0
        for schema in set(seen.holds) & set(LAYOUTS):
            rows = dbn.read(path, schema=schema)
            assert set(rows["symbol"]) == {"ESZ4"}
            count += rows.height
        assert count + seen.holds["symbol"] == seen.records == 46
