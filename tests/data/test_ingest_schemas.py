"""Every vendor schema through the whole writer: what lies in the lake is what the file says; and runs in any disorder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.context import Context, Principal, parse_table
from researchkit.data import tables
from researchkit.data.door import Door
from researchkit.data.ingest import Index, ingest
from researchkit.data.layouts import layout_of, restored
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.schemas import FIELDS, FRAMES
from researchkit.data.spool import Spool
from researchkit.data.typed import batches
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

REAL = Path(os.environ.get("RESEARCHKIT_TEST_DATA", "/nonexistent")) / "dbn"
FIRST = ("EQUS.MINI", "GLBX.MDP3", "IFEU.IMPACT", "XNAS.ITCH", "OPRA.PILLAR")
SAMPLES = {
    schema: found[0]
    for schema in FRAMES
    if (found := [p for d in FIRST for p in (REAL / "samples" / d).glob(f"test_data.{schema}.dbn.zst")])
}
ME = Context(Principal("tester", ("data-engineer", "quant")))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("schemas")
    install(root / "policy")
    registry = Registry(f"sqlite:///{root}/catalog.db")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    raw = RawZone(root / "raw", registry=registry, keyring=Keyring(root / "keys"), door=door, immutable=False)
    catalog = tables.open_catalog(registry.engine, root / "lake")
    return {"raw": raw, "catalog": catalog, "index": Index(root / "lake", registry, door), "context": ME}


def test_each_schema_lies_in_the_lake_as_the_vendor_wrote_it(parts: dict[str, Any]) -> None:
    for schema, path in SAMPLES.items():
        header, arrays = batches(path)
        vendor = pl.concat([pl.DataFrame(batch) for batch in arrays])
        put = parts["raw"].put(path, name=path.name, key="k", context=ME)
        done = ingest(put.sha256, **parts)
        assert done.held == vendor.height, schema
        resource = parse_table(done.table)
        table = parts["catalog"].load_table(resource.identifier)
        lies = [
            pl.read_parquet(table.io.storage.local(p))
            for p in tables.planned(table)  # several of them for a week
        ]
        found = restored(pl.concat(lies), layout_of(resource))
        found = found.sort("ordinal" if "ordinal" in found.columns else "ts_event")
        vendor = vendor if "ordinal" in found.columns else vendor.sort("ts_event")
        for column, field in FIELDS[schema].items():
            wanted = vendor[field]
            assert found[column].cast(wanted.dtype).equals(wanted, null_equal=True), (
                schema,
                header.version,
                column,
            )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 5), st.integers(1, 90), st.integers(1, 120))
def test_windows_are_the_sorted_rows_whatever_the_disorder(
    seed: int, rows: int, cells: int, chunk: int, window: int
) -> None:
    rng = np.random.default_rng(seed)
    record = np.dtype([("t", "<u8"), ("seq", "<u4"), ("px", "<i4")])
    came = np.zeros(rows, record)
    came["t"], came["seq"] = rng.integers(0, 1 + rows // 2, rows), rng.integers(0, 3, rows)
    came["px"] = np.arange(rows)
    which = rng.integers(0, cells, rows).astype(np.int64) * (1, 70_000, 2**33)[seed % 3]
    spool = Spool(Path(tempfile.gettempdir()), record, time="t", ties=["seq"])
    for start in range(0, rows, chunk):
        end = min(start + chunk, rows)
        spool.add(which[start:end], came[start:end], np.arange(start, end))
    bounds = spool.bounds(window, file_of=lambda cell: cell % 2)
    extra = {(int(cell), int(t)) for cell, t in zip(which[::7], came["t"][::7].astype(int), strict=True)}
    found = list(spool.windows(sorted({*bounds, *extra, bounds[0]})))
    spool.close()
    plain = np.lexsort((np.arange(rows), came["seq"], came["t"], which))
    assert np.concatenate([w.records for w in found])["px"].tolist() == plain.tolist()
    assert np.concatenate([w.places for w in found]).tolist() == plain.tolist()
