"""The lake in a bucket of a real server: written once, read in part, confirmed, and gone when it is removed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import Faulty, before
from radosgw import Radosgw
from tls import Authority

from researchkit.context import parse_table
from researchkit.data import tables
from researchkit.data.layouts import LAYOUTS
from researchkit.data.remote import BucketStorage
from researchkit.data.storage import hash_in, open_storage
from researchkit.data.transfer import PART
from researchkit.errors import AccessDenied, IntegrityError, SecretUnavailable, SettingsError
from researchkit.frames import EXACT
from researchkit.security.secret import Secret
from researchkit.settings import Settings, address

pytestmark = pytest.mark.xdist_group("radosgw")
PRICES = [pl.lit(1).cast(EXACT).alias(n) for n in ("open", "high", "low", "close")]
PATH = "demo/trades/data/day=2024-03-01/bucket=03/4f1c.parquet"


class Keys:
    """The secrets of the tests."""

    def __init__(self, server: Radosgw) -> None:
        self.pair = {"access_key": Secret(server.access_key), "secret_key": Secret(server.secret_key)}

    def fields(self, name: str) -> Mapping[str, Secret]:
        return self.pair if name == "lake-writer" else {}


@pytest.fixture(scope="module")
def faulty(radosgw: Radosgw, authority: Authority) -> Iterator[Faulty]:
    with before(radosgw, authority) as running:
        yield running


def url_of(endpoint: str, bucket: str, ca: Path) -> str:
    return f"s3://{bucket}/lake?endpoint={endpoint}&secret=lake-writer&ca={ca}"


@pytest.fixture
def bucket(radosgw: Radosgw) -> str:
    return radosgw.bucket(locked=False)


@pytest.fixture
def lake(radosgw: Radosgw, bucket: str, tmp_path: Path) -> BucketStorage:
    settings = Settings(tmp_path, lake_url=url_of(radosgw.endpoint, bucket, radosgw.ca))
    storage = open_storage(settings, lambda: Keys(radosgw))
    assert isinstance(storage, BucketStorage)
    return storage


@pytest.fixture
def broken(radosgw: Radosgw, bucket: str, faulty: Faulty, tmp_path: Path) -> Iterator[BucketStorage]:
    """The same, reached through the proxy."""
    faulty.clear()
    found = address("lake_url", url_of(faulty.endpoint, bucket, radosgw.ca))
    yield BucketStorage(found, lambda: Keys(radosgw).pair, locks=tmp_path, ca=radosgw.ca)
    faulty.clear()


def noise(size: int) -> bytes:
    return random.Random(7).randbytes(size)


def wide(rows: int = 100_000) -> pa.Table:
    """Two columns that do not compress, so that a part of the file is a part of the bytes."""
    whole = np.frombuffer(noise(16 * rows), "<i8")
    return pa.table({"a": whole[:rows], "b": whole[rows:]})


@pytest.mark.parametrize("size", [0, 5, PART + 5], ids=["empty", "small", "two parts"])
def test_what_was_written_is_there_and_written_once(lake: BucketStorage, size: int) -> None:
    kept = lake.publish(PATH, lambda sink: sink.write(noise(size)))
    assert (kept.bytes, lake.size(PATH), kept.sha256) == (size, size, hash_in(lake, PATH))
    found = lake.stat(PATH)
    assert found is not None
    assert found.etag == kept.etag
    with pytest.raises(IntegrityError, match="is written once and is there already"):
        lake.publish(PATH, lambda sink: sink.write(b"other"))
    with lake.open(PATH) as file:
        assert file.read() == noise(size)


def test_a_reader_of_one_column_fetches_a_part(broken: BucketStorage, faulty: Faulty) -> None:
    broken.publish(PATH, lambda sink: pq.write_table(wide(), sink, use_dictionary=False))
    faulty.clear()
    fetched: list[int] = []
    whole = broken._server.get_object
    broken._server.get_object = lambda **given: fetched.append(_length(given["Range"])) or whole(**given)
    assert broken.parquet(PATH).read(["b"]).column("b").equals(wide().column("b"))
    assert sum(fetched) < 0.6 * broken.size(PATH)
    assert len(fetched) <= 4


def _length(span: str) -> int:
    first, last = span.removeprefix("bytes=").split("-")
    return int(last) - int(first) + 1


def test_a_cut_line_is_taken_up_again_and_a_replaced_file_is_not_mixed(
    broken: BucketStorage, lake: BucketStorage, faulty: Faulty
) -> None:
    lake.publish(PATH, lambda sink: sink.write(noise(3 << 20)))
    faulty.next("half", "GET", "4f1c", times=2)
    faulty.next("500", "GET", "4f1c")
    with broken.open(PATH) as file:
        assert file.read() == noise(3 << 20)
    file = broken.open(PATH)
    file.read(10)
    lake.delete(PATH)
    lake.publish(PATH, lambda sink: sink.write(noise(3 << 20)[::-1]))
    file.seek(2 << 20)
    with pytest.raises(IntegrityError, match="was replaced while it was read"):
        file.read(10)


@pytest.mark.parametrize("kind", ["500", "lose"])
def test_a_write_survives_a_server_that_fails_in_the_middle(
    broken: BucketStorage, faulty: Faulty, kind: str
) -> None:
    for method, word in (
        ("POST", "uploads"),
        ("PUT", "partNumber=2"),
        ("POST", "uploadId"),
        ("HEAD", "4f1c"),
    ):
        faulty.next(kind, method, word)
    kept = broken.publish(PATH, lambda sink: sink.write(noise(PART + 5)))
    assert all(fault.left == 0 for fault in faulty.faults)
    assert kept.sha256 == hash_in(broken, PATH)


def test_a_write_that_fails_leaves_nothing(
    broken: BucketStorage, lake: BucketStorage, faulty: Faulty, radosgw: Radosgw, bucket: str
) -> None:
    def half(sink: Any) -> None:
        sink.write(noise(PART + 5))
        raise OSError("the vendor hung up")

    with pytest.raises(OSError, match="the vendor hung up"):
        lake.publish(PATH, half)
    faulty.next("flip", "PUT", "4f1c")
    with pytest.raises(IntegrityError, match="BadDigest"):
        broken.publish(PATH, lambda sink: sink.write(b"paid for"))
    assert not lake.exists(PATH)
    assert radosgw.admin.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_listing_names_what_lies_below_and_nothing_else(
    lake: BucketStorage, radosgw: Radosgw, bucket: str
) -> None:
    for name in ("demo/trades/data/b", "demo/trades/data/a", "demo/trades2/data/c"):
        lake.publish(name, lambda sink: sink.write(b"x"))
    radosgw.admin.put_object(Bucket=bucket, Key="elsewhere/d", Body=b"x")
    assert [f.path for f in lake.list("demo/trades")] == ["demo/trades/data/a", "demo/trades/data/b"]
    assert len(list(lake.list())) == 3
    lake.delete("demo/trades/data/a")
    lake.delete("demo/trades/data/a")
    assert [f.path for f in lake.list("demo/trades")] == ["demo/trades/data/b"]


def test_what_is_removed_leaves_no_version_behind(radosgw: Radosgw, tmp_path: Path) -> None:
    kept = radosgw.bucket(locked=False)
    radosgw.admin.put_bucket_versioning(Bucket=kept, VersioningConfiguration={"Status": "Enabled"})
    settings = Settings(tmp_path, lake_url=url_of(radosgw.endpoint, kept, radosgw.ca))
    lake = open_storage(settings, lambda: Keys(radosgw))
    for content in (b"first", b"second"):
        lake.publish(PATH, lambda sink, content=content: sink.write(content))
        lake.delete(PATH)
    said = radosgw.admin.list_object_versions(Bucket=kept)
    assert (said.get("Versions", []), said.get("DeleteMarkers", [])) == ([], [])


def test_nothing_falls_back_to_a_cloud_and_no_secret_is_said(
    radosgw: Radosgw, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from the surroundings")
    with pytest.raises(SettingsError, match="lake_url: endpoint must be https://HOST:PORT"):
        open_storage(Settings(tmp_path, lake_url=f"s3://{bucket}/lake?secret=lake-writer"), dict)
    settings = Settings(tmp_path, lake_url=url_of(radosgw.endpoint, bucket, radosgw.ca))
    wrong = Keys(radosgw)
    wrong.pair["secret_key"] = Secret("a wrong secret key")
    with pytest.raises((SecretUnavailable, AccessDenied)) as refused:
        open_storage(settings, lambda: wrong).publish(PATH, lambda sink: sink.write(b"x"))
    lake = open_storage(settings, lambda: Keys(radosgw))
    lake.publish(PATH, lambda sink: sink.write(b"x"))
    told = repr(lake) + repr(vars(lake)) + str(refused.value)
    assert radosgw.secret_key not in told
    assert "a wrong secret key" not in told


def test_a_table_lives_in_the_bucket(lake: BucketStorage, tmp_path: Path) -> None:
    catalog = tables.open_catalog(f"sqlite:///{tmp_path}/catalog.db", lake)
    what, layout = parse_table("DEMO/ohlcv-1d"), LAYOUTS["ohlcv-1d"]
    table = tables.make_table(catalog, what)
    days = [datetime(2004, 12, 29, tzinfo=UTC) + timedelta(days=i) for i in range(5)]
    ns = [int(d.timestamp()) * 10**9 for d in days]
    rows = pl.DataFrame({tables.DAY: days, "ts_event": ns, "symbol": ["SPX"] * 5, "volume": [1] * 5})
    rows = rows.with_columns(pl.col(tables.DAY).cast(pl.Datetime("us", "UTC")), *PRICES)
    for origin in ("4f1c", "07b2"):
        files = tables.write_files(table, rows, layout=layout, origin=origin * 16)
        tables.commit(table, files, raw_sha256=origin * 16)
    assert tables.expire(table, keep=1) == 1
    again = tables.open_catalog(f"sqlite:///{tmp_path}/catalog.db", lake).load_table(what.identifier)
    found = tables.planned(again, start=ns[3])
    assert len(found) == 2
    assert sum(lake.parquet(path).metadata.num_rows for path in found) == 4
    assert not list(tmp_path.rglob("*.parquet"))
