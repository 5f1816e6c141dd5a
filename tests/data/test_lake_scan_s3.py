"""The lake in a bucket answers as the lake in a folder does, and notices what was exchanged behind its back."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from radosgw import Radosgw
from tick_lake import DAY, ME, TRADES, Place, as_trades, ns, trades_file, walk

from researchkit.data.lake import Lake
from researchkit.data.pins import Pins
from researchkit.data.remote import BucketStorage
from researchkit.errors import IntegrityError
from researchkit.security.secret import Secret
from researchkit.settings import address

pytestmark = pytest.mark.xdist_group("radosgw")
DATE = ns("2024-03-01")


def in_bucket(place: Place, server: Radosgw, bucket: str) -> Place:
    """The same place with its lake in a bucket."""
    url = f"s3://{bucket}/lake?endpoint={server.endpoint}&secret=lake-writer&ca={server.ca}"
    pair = {"access_key": Secret(server.access_key), "secret_key": Secret(server.secret_key)}
    storage = BucketStorage(
        address("lake_url", url), lambda: pair, locks=place.root / "lake" / ".locks", ca=server.ca
    )
    place.lake = Lake(storage, registry=place.registry, raw=place.raw, door=place.door)
    place.pins = Pins(registry=place.registry, lake=place.lake, door=place.door, clock=lambda: place.clock[0])
    return place


def filled(place: Place) -> Place:
    """Two days, the first of them restated."""
    for day in range(2):
        place.bring(walk(2_000, DATE + day * DAY, ("AAA", "BBB"), seed=day), f"day{day}")
    place.pins.create("before", [TRADES], context=ME)
    place.clock[0] = ns("2024-03-05")
    place.bring(trades_file(as_trades(place.scan(end="2024-03-02"))[5:], (DATE, DATE + DAY)), "day0")
    return place


def test_a_bucket_answers_as_a_folder_does(radosgw: Radosgw, tmp_path: Path) -> None:
    bucket = radosgw.bucket(locked=False)
    near = filled(Place(tmp_path / "near"))
    far = filled(in_bucket(Place(tmp_path / "far"), radosgw, bucket))
    for asked in (
        {},
        {"symbols": "AAA", "start": "2024-03-02"},
        {"asof": "2024-03-04"},
        {"pin": "before"},
        {"vendor": True},
    ):
        assert far.scan(**asked).equals(near.scan(**asked))
    lazy = far.lake.scan(TRADES, context=ME)
    assert (
        lazy.filter(pl.col("size") > 400)
        .select("price")
        .collect()
        .equals(near.scan().filter(pl.col("size") > 400).select("price"))
    )
    assert (
        far.pins.create("after", [TRADES], context=ME).id
        == near.pins.create("after", [TRADES], context=ME).id
    )
    assert all(f.ok for name in ("before", "after") for f in far.pins.findings(name))
    assert all(f.ok for f in far.lake.verify())
    again = in_bucket(Place(tmp_path / "far"), radosgw, bucket)
    [piece, *_] = again.lake.asked(TRADES, start="2024-03-02", context=ME).pieces
    again.lake.storage.delete(piece.path)
    again.lake.storage.publish(piece.path, lambda sink: sink.write(bytes(piece.bytes)))
    with pytest.raises(IntegrityError, match=r"bytes and ETag must be \d+ [0-9a-f-]+, got"):
        again.scan(start="2024-03-02")
    assert [f.ok for f in again.pins.findings("before")].count(False) == 1
