"""Whole files are read, damaged ones are refused: real vendor files where they are, generated ones always."""

import io
import os
from datetime import UTC, datetime
from pathlib import Path

import databento
import databento_dbn
import numpy as np
import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.data import dbn
from researchkit.data.encode import encode, encode_bars
from researchkit.data.envelope import LAYOUTS, layout, open_records, sha256_of
from researchkit.data.schemas import FRAMES
from researchkit.errors import IntegrityError, NotFound, ResearchKitError, SchemaError

REFUSED = (IntegrityError, SchemaError)
DAY = 86_400_000_000_000
REAL = Path(os.environ.get("RESEARCHKIT_TEST_DATA", "/nonexistent"))


def generated(schema: str) -> bytes:
    """Encode three records of `schema`, numbered so that every field of every record differs."""
    records = np.zeros(3, layout(schema))
    for i, name in enumerate(records.dtype.names):
        if records.dtype[name].kind in "iu" and records.dtype[name].itemsize >= 4:
            records[name] = np.arange(3) * 7 + i + 1
    records["instrument_id"], records["publisher_id"] = [1, 2, 1], 5
    records["ts_event"] = DAY * np.arange(3)
    for name in set(records.dtype.names) & {"side", "action"}:
        if records.dtype[name].kind == "S":
            records[name] = b"N"
    return encode(records, dataset="DEMO", schema=schema, ids={"AAA": 1, "BBB": 2}, span=(0, 3 * DAY))


def plain(file: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(file)


def real(folder: str, pattern: str = "*.dbn*") -> list[Path]:
    return sorted(p for p in (REAL / "dbn" / folder).rglob(pattern) if p.is_file())


def sources() -> list[Path | bytes]:
    """One file for each schema: generated, and the real ones."""
    return [generated(s) for s in LAYOUTS] + [p for p in real("samples") if p.stat().st_size < 4_000]


@pytest.mark.parametrize("schema", LAYOUTS)
def test_every_schema_is_inspected(schema):
    seen = dbn.inspect(generated(schema), name="g")
    assert (seen.schema, seen.dataset, seen.version, seen.records) == (schema, "DEMO", 3, 3)
    assert (seen.first, seen.last, seen.start, seen.end) == (0, 2 * DAY, 0, 3 * DAY)
    assert seen.symbols == ("AAA", "BBB")
    assert seen.verifiable


@pytest.mark.parametrize("schema", LAYOUTS)
def test_the_vendors_own_reader_opens_what_we_write(schema):
    file = generated(schema)
    store = databento.DBNStore.from_bytes(file)
    assert (str(store.schema), store.dataset, sorted(store.symbols)) == (schema, "DEMO", ["AAA", "BBB"])
    assert store.stype_in == databento_dbn.SType.RAW_SYMBOL
    decoder = databento_dbn.DBNDecoder(upgrade_policy=databento_dbn.VersionUpgradePolicy.AS_IS)
    decoder.write(plain(file))
    metadata, *records = decoder.decode()
    assert metadata.schema == schema
    assert b"".join(bytes(r) for r in records) == b"".join(a.tobytes() for a in open_records(file)[1])


def test_every_real_sample_is_inspected():
    for path in real("samples"):
        seen = dbn.inspect(path)
        raw = plain_of(path)
        assert seen.records == count_by_walking(raw), path
        assert seen.verifiable
        assert seen.bytes == path.stat().st_size
        if path.parent.name != "LIVE":
            assert seen.dataset == path.parent.name
            assert seen.schema == path.name.split(".")[1]
            assert seen.symbols
            assert seen.first is None or 0 <= seen.first <= seen.last
        else:
            assert seen.schema == "mixed"
    if REAL.is_dir():
        assert len(real("samples")) == 73


def plain_of(path: Path) -> bytes:
    data = path.read_bytes()
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if data[:1] == b"\x28" else data


def count_by_walking(raw: bytes) -> int:
    """Count records by their own lengths, without the module under test."""
    at, count = 8 + int.from_bytes(raw[4:8], "little"), 0
    while at < len(raw):
        at, count = at + raw[at] * 4, count + 1
    assert at == len(raw)
    return count


def test_every_format_file_is_read_or_refused_for_the_right_reason():
    for path in real("format", "*"):
        if ".frag" in path.name:
            with pytest.raises(
                IntegrityError, match=rf"{path.name}: .*fragment without its header: begins with"
            ):
                dbn.inspect(path)
        elif path.suffix == ".dbz":
            with pytest.raises(
                SchemaError, match=rf"{path.name}: is in the old DBZ format, rule: DBN version"
            ):
                dbn.inspect(path)
        elif "ohlcv-1d" in path.name:
            with pytest.raises(IntegrityError, match=rf"{path.name}: holds no records, rule: at least one"):
                dbn.inspect(path)
        else:
            seen = dbn.inspect(path)
            assert seen.records == count_by_walking(plain_of(path))
            assert seen.schema == path.name.split(".")[1]
            assert seen.verifiable == path.name.endswith(".zst")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x: is empty (0 bytes)"),
        (b"P*M\x18/\x01\x00\x00", "old DBZ format"),
        (b"Z\x13\x01\x00\x22\x7c\x00\x00" * 9, "fragment without its header"),
        (zstandard.compress(b"Z\x13\x01\x00\x22\x7c\x00\x00" * 9), "fragment without its header"),
        (b"ts_event,open,high", "begins with 74 73"),
        (b"DBN\x03", "truncated in its header: 4 of 8 bytes"),
        (b"DBN\x03\x01\x00\x00\x00\x00", "its header says it has 9 bytes"),
    ],
)
def test_foreign_bytes_are_refused_by_name(data, words):
    with pytest.raises(REFUSED) as caught:
        dbn.inspect(data, name="x")
    assert words in str(caught.value)


def test_no_prefix_of_a_compressed_file_passes():
    for source in sources():
        data = source if isinstance(source, bytes) else source.read_bytes()
        for n in range(len(data)):
            with pytest.raises(REFUSED):
                dbn.inspect(data[:n], name="cut")


@pytest.mark.parametrize("schema", ["ohlcv-1d", "trades", "mbp-10", "definition"])
def test_a_plain_file_passes_only_when_cut_between_records_and_then_says_so(schema):
    file = plain(generated(schema))
    digest, size = sha256_of(file), layout(schema).itemsize
    borders = [len(file) - size * k for k in (2, 1)]
    for n in range(len(file)):
        if n in borders:
            seen = dbn.inspect(file[:n])
            assert (seen.records, seen.verifiable) == (borders.index(n) + 1, False)
        else:
            with pytest.raises(REFUSED):
                dbn.inspect(file[:n])
        with pytest.raises(IntegrityError, match=r"SHA-256 is [0-9a-f]{64}, rule: [0-9a-f]{64}"):
            dbn.inspect(file[:n], sha256=digest)
    assert dbn.inspect(file, sha256=digest).verifiable


@pytest.mark.parametrize("schema", ["ohlcv-1d", "statistics"])
def test_one_flipped_bit_is_seen_or_harmless(schema):
    file = generated(schema)
    whole = plain(file)
    for at in range(len(file)):
        for bit in (1, 0x80):
            data = file[:at] + bytes([file[at] ^ bit]) + file[at + 1 :]
            try:
                header, arrays = open_records(data)
                records = b"".join(a.tobytes() for a in arrays)
            except ResearchKitError:
                continue
            assert whole.endswith(records)  # an unused bit of the frame's header
            assert header.symbols == ("AAA", "BBB")


def test_a_damaged_plain_header_raises_nothing_but_ours():
    file = plain(generated("ohlcv-1d"))
    for at in range(len(file) - 3 * 56):
        for bit in (1, 0x10, 0xFF):
            data = file[:at] + bytes([file[at] ^ bit]) + file[at + 1 :]
            try:
                dbn.read_bars(data)
            except ResearchKitError:
                continue


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_ours(data):
    for prefix in (b"", b"DBN\x03", b"\x28\xb5\x2f\xfd"):
        with pytest.raises(REFUSED):
            dbn.inspect(prefix + data)


def test_several_frames_need_a_hash():
    file = generated("trades")
    whole = plain(file)
    two = zstandard.compress(whole[:200]) + zstandard.compress(whole[200:])
    with pytest.raises(IntegrityError, match="more than one zstd frame, rule: exactly one"):
        dbn.inspect(two)
    assert dbn.inspect(two, sha256=sha256_of(two)).records == 3
    assert not dbn.inspect(zstandard.ZstdCompressor(write_checksum=False).compress(whole)).verifiable


def test_nothing_is_a_fact_only_where_a_hash_says_so():
    file = plain(generated("trades"))
    none = zstandard.ZstdCompressor(write_checksum=True).compress(file[: -3 * layout("trades").itemsize])
    with pytest.raises(IntegrityError, match="holds no records, rule: at least one"):
        dbn.inspect(none)
    seen = dbn.inspect(none, sha256=sha256_of(none))
    assert (seen.records, seen.first, seen.verifiable) == (0, None, True)
    assert dbn.read(none, sha256=sha256_of(none)).height == 0
    assert list(open_records(io.BytesIO(none), vouched=True)[1]) == []


def test_pieces_of_a_large_file_join_without_a_seam():
    records = np.zeros(20_000, layout("trades"))
    records["instrument_id"], records["sequence"], records["side"] = 1, np.arange(20_000), b"A"
    records["ts_event"] = records["ts_recv"] = np.random.default_rng(0).integers(0, DAY, 20_000)
    file = encode(records, dataset="DEMO", schema="trades", ids={"AAA": 1}, span=(0, DAY))
    for source in (file, plain(file)):
        found = np.concatenate(list(open_records(source)[1]))
        assert np.array_equal(found["sequence"], np.arange(20_000))
        assert dbn.inspect(source).records == 20_000


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(NotFound, match="no file"):
        dbn.inspect(tmp_path / "a.dbn")
    with pytest.raises(NotFound, match="it is a folder"):
        dbn.read_bars(tmp_path)


# bars


def test_real_bars_agree_with_the_vendors_reader():
    for path in real("samples", "*ohlcv-*.zst"):
        theirs = databento.DBNStore.from_file(path).to_ndarray()
        venue = int(theirs["publisher_id"][0])
        theirs = theirs[theirs["publisher_id"] == venue]
        ours = dbn.read_bars(path, publisher=venue)
        for column in ("open", "high", "low", "close"):
            assert ours[column].to_physical().to_list() == theirs[column].tolist()
        assert ours["ts_event"].to_physical().to_list() == theirs["ts_event"].tolist()
        assert ours["volume"].to_list() == theirs["volume"].tolist()
        assert (ours["ts_known"] > ours["ts_event"]).all()
        assert set(ours["symbol"]) <= set(dbn.inspect(path).symbols)


def test_a_file_of_another_schema_is_not_bars():
    for schema in LAYOUTS:
        if not schema.startswith("ohlcv-1"):
            with pytest.raises(SchemaError, match=rf"f: holds {schema}, rule: bars, one of ohlcv-1s"):
                dbn.read_bars(generated(schema), name="f")


PRICE = st.integers(-(10**18) + 1, 10**18 - 1)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d"]))
def test_bars_survive_the_round_trip_exactly(data, schema):
    step = dbn.INTERVALS[schema]
    keys = data.draw(
        st.sets(
            st.tuples(st.integers(0, 10_000), st.sampled_from(["A", "ES FMJ0024!", "Z" * 70])),
            min_size=1,
            max_size=8,
        )
    )
    rows = sorted((t * step, s) for t, s in keys)
    n = len(rows)
    columns = {
        c: dbn.exact_prices(np.array(data.draw(st.lists(PRICE, min_size=n, max_size=n))), name=c)
        for c in ("open", "high", "low", "close")
    }
    volume = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n))
    start = pl.Series([t for t, _ in rows], dtype=pl.Int64)
    bars = pl.DataFrame(
        {
            "ts_event": start.cast(frames.INSTANT),
            "symbol": [s for _, s in rows],
            "ts_known": (start + step).cast(frames.INSTANT),
            "ts_published": (start + step).cast(frames.INSTANT),
        }
        | columns
        | {"volume": pl.Series(volume, dtype=pl.UInt64)}
    )
    back = dbn.read_bars(encode_bars(bars, dataset="DEMO", schema=schema))
    assert back.equals(bars)
    assert frames.logical_hash(back, frames.BARS) == frames.logical_hash(bars, frames.BARS)


def test_a_number_changes_its_meaning_at_midnight():
    from types import SimpleNamespace as Row

    days = [datetime(2021, 3, d, tzinfo=UTC).date() for d in (18, 20, 22)]
    mappings = [
        Row(raw_symbol="ESH1", intervals=[Row(start_date=days[0], end_date=days[1], symbol="7")]),
        Row(raw_symbol="ESM1", intervals=[Row(start_date=days[1], end_date=days[2], symbol="7")]),
    ]
    first = int(datetime(2021, 3, 18, tzinfo=UTC).timestamp()) * 10**9

    def file(count: int, stype: str = "parent") -> bytes:
        records = np.zeros(count, layout("ohlcv-1d"))
        records["length"], records["rtype"], records["instrument_id"] = 14, 0x23, 7
        records["ts_event"] = first + DAY * np.arange(count)
        header = databento_dbn.Metadata(
            dataset="GLBX.MDP3", start=first, end=first + count * DAY,
            stype_in=databento_dbn.SType.from_str(stype),
            stype_out=databento_dbn.SType.INSTRUMENT_ID, schema=databento_dbn.Schema.OHLCV_1D,
            symbols=["ES.FUT"], mappings=mappings, version=3,
        )  # fmt: skip
        return zstandard.ZstdCompressor(write_checksum=True).compress(bytes(header) + records.tobytes())

    assert dbn.read_bars(file(4))["symbol"].to_list() == ["ESH1", "ESH1", "ESM1", "ESM1"]
    with pytest.raises(SchemaError, match="instrument 7 has no symbol on 2021-03-22"):
        dbn.read_bars(file(5))
    with pytest.raises(SchemaError, match="names its instruments as 'continuous'"):
        dbn.read_bars(file(4, "continuous"))


# ticks


@pytest.mark.parametrize("schema", ["trades", "tbbo", "mbp-1"])
def test_generated_ticks_become_their_frame(schema):
    ticks = dbn.read(generated(schema))
    assert ticks.columns == list((frames.TRADES if schema == "trades" else frames.QUOTES).columns)
    assert (ticks["ts_known"] >= ticks["ts_event"]).all()
    assert (ticks["ts_known"] >= ticks["ts_recv"]).all()


def test_a_receive_clock_that_runs_behind_never_makes_a_tick_known_early():
    for path in sorted((REAL / "ticks").glob("*trades*.zst")):
        ticks = dbn.read(path)
        behind = ticks.filter(pl.col("ts_recv") < pl.col("ts_event"))
        assert behind.height > 1000
        assert (ticks["ts_known"] >= ticks["ts_event"]).all()
        assert ticks["ordinal"].n_unique() == ticks.height == dbn.inspect(path).records


@pytest.mark.parametrize("schema", FRAMES)
def test_every_schema_becomes_its_frame(schema):
    file = generated(schema)
    rows = dbn.read(file)
    assert rows.columns == list(FRAMES[schema].columns)
    assert rows.height == 3
    assert (rows["ts_known"] >= rows["ts_event"]).all()
    if schema not in dbn.INTERVALS:
        assert rows["ordinal"].sort().to_list() == [0, 1, 2]


def test_every_real_file_becomes_its_frame_or_says_why_not():
    """The vendor's own files: options have bars of several venues, one file does not name its instrument."""
    refused = []
    for path in [*real("samples"), *real("format", "*.v?.dbn*"), *real("format", "*.dbn")]:
        if ".frag" in path.name or (path.parent.name == "format" and "ohlcv-1d" in path.name):
            continue
        seen = dbn.inspect(path)
        for schema in set(seen.holds) & set(FRAMES):
            try:
                assert dbn.read(path, schema=schema).height == seen.holds[schema]
            except SchemaError as e:
                refused.append(str(e).partition(": ")[2][:28])
    assert set(refused) <= {
        "holds bars of publishers [20",
        "holds bars of publishers [22",
        "instrument 146945 has no sym",
    }
    assert len(refused) in (0, 8)


def test_the_file_is_named_whatever_is_wrong_with_a_row():
    for schema, field, value in [
        ("ohlcv-1d", "low", 2**62), ("mbp-1", "ask_px_00", -(10**18)), ("trades", "instrument_id", 9),
        ("definition", "strike_price", 10**18), ("statistics", "ts_recv", 2**64 - 1), ("mbo", "ts_event", 2**63),
    ]:  # fmt: skip
        content = bytearray(plain(generated(schema)))
        kind = layout(schema)
        where = len(content) - kind.itemsize + kind.fields[field][1]
        size = kind[field].itemsize
        content[where : where + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
        with pytest.raises(REFUSED, match=r"^odd\.dbn: (record|instrument)"):
            dbn.read(bytes(content), name="odd.dbn")
