"""The catalog and lineage give the same answers whichever database holds the registry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from researchkit.data.catalog import Catalog
from researchkit.data.lineage import holders, lineage
from researchkit.data.register import open_registry
from researchkit.data.registry import Registry, insert
from researchkit.security.secret import Secret
from researchkit.settings import Settings

pytestmark = pytest.mark.xdist_group("postgresql")
PASSWORD = "a password of the catalog"
DAY = 86_400_000_000_000


class Keys:
    """The secrets of the test."""

    def fields(self, name: str) -> Mapping[str, Secret]:
        return {"user": Secret("shelf"), "password": Secret(PASSWORD)}


@pytest.fixture
def both(postgresql: Any, tmp_path: Path) -> list[Registry]:
    name = f"catalog_{os.urandom(4).hex()}"
    postgresql.run(f"CREATE ROLE shelf LOGIN PASSWORD '{PASSWORD}'")
    postgresql.run(f"CREATE DATABASE {name} OWNER shelf")
    url = f"postgresql://127.0.0.1:{postgresql.port}/{name}?secret=lake-catalog&ca={postgresql.ca}"
    return [
        Registry(f"sqlite:///{tmp_path}/catalog.db"),
        open_registry(Settings(tmp_path, catalog_url=url), Keys),
    ]


def entered(registry: Registry) -> None:
    """Two symbols, two files of two objects, one of them merged, ordered, restated, quarantined and pinned."""
    name = {"table_name": "GLBX.MDP3/trades"}
    span = {"first_ns": 15_000 * DAY, "last_ns": 15_030 * DAY}
    raw = {
        "cipher_sha256": "c" * 64,
        "bytes": 900,
        "cipher_bytes": 950,
        "put_ns": 16_000 * DAY,
        "put_by": "engineer3",
    }
    one, two = "1" * 64, "2" * 64
    file = name | span | {"raw_sha256": one, "bytes": 700, "sha256": "f" * 64, "rows": 40}
    order = name | {
        "id": "a81f",
        "stype": "raw_symbol",
        "symbols": "ESM1",
        "start_ns": 0,
        "end_ns": 1,
        "state": "done",
    }
    rows = [
        ("lake_tables", name | {"words": "futures"}),
        *(("lake_symbols", name | span | {"symbol": s, "rows": 40, "words": ""}) for s in ("ESM1", "NQM1")),
        *(("lake_months", name | {"symbol": s, "month": 201101, "rows": 40}) for s in ("ESM1", "NQM1")),
        *(("raw_objects", name | raw | {"sha256": d, "name": f"{d[0]}.dbn", "key_name": "market"}) for d in (one, two)),
        ("lake_files", file | {"path": "old.parquet", "retired_ns": 5}),
        ("lake_files", file | {"path": "new.parquet", "raw_sha256": "", "rows": 80}),
        *(("file_origins", {"path": p, "raw_sha256": d, "rows": 40}) for p, d in (("new.parquet", one), ("new.parquet", two))),
        ("ingests", name | {"raw_sha256": one, "snapshot": 1, "rows": 40, "ingested_ns": 16_001 * DAY}),
        ("orders", order | {"job": "J-1", "cost_micros": 41_200_000, "made_ns": 0, "made_by": "x", "changed_ns": 0}),
        ("order_files", {"order_id": "a81f", "name": "1.dbn", "bytes": 1, "sha256": one, "raw_sha256": one}),
        ("restatements", name | {"raw_sha256": two, "replaces": one, "published_ns": 1, "retracted": 3, "added": 2}),
        ("quarantined", name | {"raw_sha256": two, "reason": "high below low", "rows": 7}),
        ("pin_tables", name | {"pin_id": "9" * 64, "snapshot": 1, "rows": 40, "logical_hash": "0"}),
        ("pin_files", name | {"pin_id": "9" * 64, "path": "old.parquet", "bytes": 1, "sha256": "f" * 64}),
    ]  # fmt: skip
    for table, row in rows:
        registry.write((insert(table, row), [row]))


def test_both_databases_answer_alike(both: list[Registry]) -> None:
    answers = []
    for registry in both:
        entered(registry)
        catalog = Catalog(registry, clock=lambda: 15_040 * DAY)
        entry = catalog.describe("GLBX.MDP3/trades", owner="data desk", symbols={"ESM1": "S&P 500 future"})
        found = catalog.search("s&p trades").to_dicts(), catalog.coverage("GLBX.MDP3/trades").to_dicts()
        up, part = lineage(registry, "GLBX.MDP3/trades"), lineage(registry, "1" * 12)
        answers.append((entry.facts(), found, up.tree(), part.tree(), holders(registry, "2" * 64).to_dicts()))
    assert answers[0] == answers[1]
    facts, (tables, months), tree, _, _ = answers[0]
    assert (facts["paid"], facts["corrections"], facts["in quarantine"]) == (
        "41.20 USD",
        "1 restatement, 3 rows taken back",
        "7 rows",
    )
    assert tables[0]["symbols"] == "ESM1 (S&P 500 future), NQM1"
    assert [m["rows"] for m in months] == [40, 40]
    assert "order a81f (job J-1)" in tree
    assert "restates 111111111111" in tree
