"""Deliveries: what a manifest vouches for, what is refused, and that the demo's own is always the same."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import databento
import polars as pl
import pytest

from researchkit import frames
from researchkit.data import dbn, vendor
from researchkit.data.encode import encode_bars
from researchkit.errors import IntegrityError, NotFound, SchemaError


@pytest.fixture(scope="module")
def delivery(tmp_path_factory) -> Path:
    return vendor.deliver(tmp_path_factory.mktemp("vendor") / "delivery")


def copy_of(delivery: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in delivery.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def rows(days: int, symbols: tuple[str, ...] = ("AAA", "BBB")) -> pl.DataFrame:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    data = [(start + timedelta(days=d), s) for d in range(days) for s in symbols]
    frame = pl.DataFrame(data, schema={"ts_event": frames.INSTANT, "symbol": pl.String}, orient="row")
    prices = {c: 10.0 for c in ("open", "high", "low", "close")}
    known = pl.col("ts_event").dt.offset_by("1d")
    frame = frame.with_columns(ts_known=known, ts_published=known, volume=pl.lit(1, pl.UInt64), **prices)
    return frames.conform(frame, frames.BARS)


def test_the_border_is_where_it_was_asked_for_and_nothing_is_lost(delivery):
    opened, sealed = vendor.check_delivery(delivery)
    assert [vendor.is_sealed(d) for d in (opened, sealed)] == [False, True]
    seen = [dbn.inspect(d.path, sha256=d.sha256) for d in (opened, sealed)]
    border = int(vendor.BORDER.timestamp()) * 10**9
    assert seen[0].last < border <= seen[1].first
    assert {(s.dataset, s.schema, s.symbols, s.verifiable) for s in seen} == {
        ("DEMO", "ohlcv-1d", ("COMP", "SPX"), True)
    }
    both = pl.concat([dbn.read_bars(d.path) for d in (opened, sealed)])
    assert both.equals(vendor.arch_indices())


def test_the_vendors_reader_opens_the_open_file(delivery):
    opened = vendor.check_delivery(delivery)[0]
    store = databento.DBNStore.from_file(opened.path)
    assert store.dataset == "DEMO"
    assert len(store.to_ndarray()) == dbn.inspect(opened.path).records


def test_volumes_above_32_bits_arrive(delivery):
    opened = vendor.check_delivery(delivery)[0]
    assert dbn.read_bars(opened.path)["volume"].max() > 2**32


def test_prices_lie_on_the_cent():
    bars, _ = vendor.split_at(vendor.arch_indices(), vendor.BORDER)
    for column in ("open", "high", "low", "close"):
        assert (bars[column].to_physical().cast(pl.Int64) % 10_000_000 == 0).all()


def test_two_processes_deliver_the_same_bytes(delivery, tmp_path):
    code = (
        "import sys, pathlib; from researchkit.data import vendor; vendor.deliver(pathlib.Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "POLARS_MAX_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env=environment)
    assert {p.name: p.read_bytes() for p in delivery.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_leftovers_of_a_killed_writer_do_not_stay(delivery, tmp_path):
    folder = copy_of(delivery, tmp_path)
    (folder / ".tmp-0123456789abcdef").write_bytes(b"half")
    vendor.deliver(folder)
    assert len(vendor.check_delivery(folder)) == 2


@pytest.mark.parametrize("at", [0, 100, -1])
def test_one_flipped_byte_stops_a_delivery(delivery, tmp_path, at):
    folder = copy_of(delivery, tmp_path)
    victim = sorted(folder.glob("*.zst"))[1]
    data = bytearray(victim.read_bytes())
    data[at] ^= 1
    victim.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=rf"copy/{victim.name}: SHA-256 is .*, rule: .* by the manifest"):
        vendor.delivery_from(folder)
    with pytest.raises(IntegrityError, match="SHA-256 is"):
        vendor.delivery_from(victim)


def test_absent_cut_and_unlisted_files_stop_a_delivery(delivery, tmp_path):
    folder = copy_of(delivery, tmp_path)
    victim = sorted(folder.glob("*.zst"))[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError, match=rf"has {len(whole) - 1} bytes, rule: {len(whole)}"):
        vendor.check_delivery(folder)
    victim.unlink()
    with pytest.raises(IntegrityError, match="is in the manifest and not in the folder"):
        vendor.check_delivery(folder)
    victim.write_bytes(whole)
    (folder / "more.dbn.zst").write_bytes(whole)
    with pytest.raises(IntegrityError, match=r"copy/more.dbn.zst: is in the folder and not in the manifest"):
        vendor.check_delivery(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filename": "../x"}, "plain file name"),
        ({"filename": "manifest.json"}, "plain file name"),
        ({"filename": 7}, "plain file name"),
        ({"size": -1}, "must be a number of bytes"),
        ({"size": True}, "must be a number of bytes"),
        ({"hash": "md5:" + "0" * 64}, "must be sha256:"),
        ({"hash": "sha256:" + "g" * 64}, "must be sha256:"),
        ({"hash": None}, "must be sha256:"),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path, change, words):
    row = {"filename": "a.dbn", "size": 1, "hash": "sha256:" + "0" * 64} | change
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [row]}))
    with pytest.raises(IntegrityError, match=words):
        vendor.read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 3}', '{"files": []}', '{"files": [1]}', "\udcff"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(IntegrityError, match=r"manifest\.json: "):
        vendor.read_manifest(tmp_path)


def test_files_without_a_manifest_have_no_vendor_hash(tmp_path):
    with pytest.raises(NotFound, match="no DBN file in"):
        vendor.delivery_from(tmp_path)
    (tmp_path / "b.dbn.zst").write_bytes(encode_bars(rows(3), dataset="MINE"))
    (tmp_path / "readme.txt").write_text("not data")
    found = vendor.delivery_from(tmp_path)
    assert [(d.name, d.vendor_hash) for d in found] == [("b.dbn.zst", "none")]
    assert vendor.delivery_from(tmp_path / "b.dbn.zst") == found


def test_ones_own_data_is_cut_by_sessions(tmp_path):
    late = rows(8).filter((pl.col("symbol") == "AAA") | (pl.col("ts_event").dt.day() > 6))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.dbn.zst").write_bytes(encode_bars(late, dataset="MINE"))
    (tmp_path / "own" / "metadata.json").write_text("{}")
    vendor.write_manifest(tmp_path / "own", ["a.dbn.zst", "metadata.json"])
    opened, sealed = vendor.check_delivery(vendor.deliver_own(tmp_path / "own", tmp_path / "cut"))
    assert dbn.read_bars(opened.path)["ts_event"].n_unique() == 6
    assert dbn.read_bars(sealed.path)["ts_event"].n_unique() == 2
    assert pl.concat([dbn.read_bars(opened.path), dbn.read_bars(sealed.path)]).equals(late)


def test_two_datasets_are_not_one_delivery(tmp_path):
    (tmp_path / "a.dbn.zst").write_bytes(encode_bars(rows(4), dataset="MINE"))
    (tmp_path / "b.dbn.zst").write_bytes(encode_bars(rows(4), dataset="YOURS"))
    with pytest.raises(SchemaError, match="holds MINE/ohlcv-1d and YOURS/ohlcv-1d, rule: one"):
        vendor.deliver_own(tmp_path, tmp_path / "cut")


def test_too_little_to_seal():
    with pytest.raises(ValueError, match="1 sessions are too few to seal a share of"):
        vendor.split_sealed(rows(1))
    with pytest.raises(ValueError, match="share must lie between 0 and 1, got 1"):
        vendor.split_sealed(rows(4), 1)
