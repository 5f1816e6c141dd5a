"""The end of a licence where a site keeps its lake: the registry on PostgreSQL, the files in a bucket, some of them merged."""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ending import TABLE, TELLTALE, bars, end, left, make, opened
from test_destruction import EXPECTED

from researchkit.data.encode import encode_bars
from researchkit.data.upkeep import Upkeep
from researchkit.security.secret import Secret

pytestmark = pytest.mark.xdist_group("radosgw")
WANTED = EXPECTED | {"ended": {"market": 6, "other": 2}}  # the second delivery is one link more in both
TOLD = (struct.pack(">d", TELLTALE), struct.pack("<d", TELLTALE), str(TELLTALE).encode())


@pytest.fixture
def site(postgresql: Any, radosgw: Any, tmp_path: Path) -> Path:
    """A workspace whose lake lies on servers."""
    name, password = f"ending_{os.urandom(4).hex()}", os.urandom(12).hex()
    postgresql.run(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    postgresql.run(f"CREATE DATABASE {name} OWNER {name}")
    root = tmp_path / "workspace"
    root.mkdir()
    bucket = f"s3://{radosgw.bucket(locked=False)}/lake?endpoint={radosgw.endpoint}"
    lines = {
        "catalog_url": f"postgresql://127.0.0.1:{postgresql.port}/{name}?secret=lake-catalog&ca={postgresql.ca}",
        "lake_url": f"{bucket}&secret=lake-writer&ca={radosgw.ca}",
    }
    (root / "researchkit.toml").write_text("".join(f'{k} = "{v}"\n' for k, v in lines.items()))
    ws = opened(root)
    ws.secrets.put("lake-catalog", {"user": Secret(name), "password": Secret(password)})
    keys = {"access_key": Secret(radosgw.access_key), "secret_key": Secret(radosgw.secret_key)}
    ws.secrets.put("lake-writer", keys)
    return root


def merged(root: Path) -> int:
    """Bring a second delivery of the licence that ends, and merge its files; how many were merged."""
    ws = opened(root)
    july = encode_bars(bars(datetime(2013, 7, 1, tzinfo=UTC), TELLTALE), dataset="DEMO")
    ws.lake.ingest(ws.raw.put(july, name="july", key="market").sha256)
    lake = ws._lake
    parts = {
        "storage": lake.storage,
        "registry": ws.registry,
        "door": ws.door,
        "catalog": lambda: lake.catalog,
    }
    return sum(m.files for m in Upkeep(**parts).compact(TABLE, context=ws.context))


def test_a_licence_ends_in_a_bucket_too_merged_files_and_all(site: Path) -> None:
    make(site)
    assert merged(site) == 2
    ws = opened(site)
    before = [f.path for f in ws._lake.storage.list()]
    assert (
        sum(path.endswith(".parquet") for path in before) == 4
    )  # two were merged, and a version needs one of them
    end(site)
    after = left(site)
    assert {k: after[k] for k in WANTED} == WANTED
    there = list(opened(site)._lake.storage.list())
    assert sum(f.path.endswith(".parquet") for f in there) == 1
    assert not [f.path for f in there for t in TOLD if t in ws._lake.storage.open(f.path).read()]
    assert not [p for p in (site / "lake").rglob("*") if p.is_file() and p.stat().st_size]
