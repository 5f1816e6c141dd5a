"""The registry and the catalog of a site: TLS, a secret, several writers, and a server that goes away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from researchkit.context import parse_table
from researchkit.data import tables
from researchkit.data.layouts import LAYOUTS
from researchkit.data.register import SCHEMA, ServerRegistry, open_registry
from researchkit.data.registry import Registry, insert
from researchkit.data.storage import FolderStorage
from researchkit.errors import SecretUnavailable, WorkspaceError
from researchkit.frames import EXACT
from researchkit.security.secret import Secret
from researchkit.settings import Settings

pytestmark = pytest.mark.xdist_group("postgresql")
TABLE = "DEMO/ohlcv-1d"
PRICES = [pl.lit(1).cast(EXACT).alias(n) for n in ("open", "high", "low", "close")]
PASSWORD = "a password of the lake"


class Keys:
    """The secrets of the tests."""

    def __init__(self, password: str = PASSWORD) -> None:
        self.password = password

    def fields(self, name: str) -> Mapping[str, Secret]:
        return {"user": Secret("lake"), "password": Secret(self.password)}


@pytest.fixture(scope="module")
def server(postgresql: Any) -> Any:
    postgresql.run(f"CREATE ROLE lake LOGIN PASSWORD '{PASSWORD}'")
    return postgresql


@pytest.fixture
def database(server: Any, request: pytest.FixtureRequest) -> str:
    name = f"lake_{os.urandom(4).hex()}"
    server.run(f"CREATE DATABASE {name} OWNER lake")
    return name


def settings_of(server: Any, database: str, root: Path) -> Settings:
    url = f"postgresql://127.0.0.1:{server.port}/{database}?secret=lake-catalog&ca={server.ca}"
    return Settings(root, catalog_url=url)


@pytest.fixture
def registry(server: Any, database: str, tmp_path: Path) -> Registry:
    return open_registry(settings_of(server, database, tmp_path), Keys)


def row(number: int) -> dict[str, Any]:
    return {
        "path": f"demo/{number}", "table_name": TABLE, "raw_sha256": f"{number:064x}", "bytes": 10, "sha256": "0",
        "rows": 2**40, "first_ns": 0, "last_ns": 1,
    }  # fmt: skip


def test_the_registry_is_the_same_on_both(
    registry: Registry, server: Any, database: str, tmp_path: Path
) -> None:
    local = Registry(f"sqlite:///{tmp_path}/catalog.db")
    asked = "SELECT table_name, SUM(rows) AS rows, COUNT(*) AS n FROM lake_files GROUP BY table_name"
    for one in (local, registry):
        one.write((insert("lake_files", row(0)), [row(0), row(1)]))
        one.write((insert("lake_files", row(0)), [row(0) | {"rows": 7}]))
        assert one.rows(asked) == [{"table_name": TABLE, "rows": 2**41, "n": 2}]
    columns = {
        t: [c["name"] for c in sa.inspect(local.engine).get_columns(t)]
        for t in sa.inspect(local.engine).get_table_names()
    }
    there = {t: [c["name"] for c in sa.inspect(registry.engine).get_columns(t)] for t in columns}
    assert there == columns
    found = server.run(f"SELECT count(*) FROM pg_tables WHERE schemaname = '{SCHEMA}'", database)
    assert found == [(len(columns),)]


def test_no_credential_is_in_an_address_a_repr_or_a_message(
    server: Any, database: str, tmp_path: Path
) -> None:
    wrong = open_registry(settings_of(server, database, tmp_path), lambda: Keys("not the password"))
    with pytest.raises(SecretUnavailable, match="refuses the user or password") as refused:
        wrong.rows("SELECT 1")
    registry = open_registry(settings_of(server, database, tmp_path), Keys)
    with pytest.raises(WorkspaceError) as broken:
        registry.write((insert("lake_files", row(0)), [row(0) | {"bytes": PASSWORD}]))
    told = repr(registry) + repr(registry.engine) + str(registry.engine.url) + registry.url
    told += (
        str(refused.value) + repr(refused.value.__context__) + str(broken.value).replace(f'"{PASSWORD}"', "")
    )
    assert "not the password" not in told
    assert PASSWORD not in told


def test_a_server_that_goes_away_is_waited_for_and_named(server: Any, database: str, tmp_path: Path) -> None:
    registry = open_registry(settings_of(server, database, tmp_path), Keys)
    registry.write((insert("lake_files", row(0)), [row(0)]))
    server.control("stop", "-m", "immediate")
    assert isinstance(registry, ServerRegistry)
    registry._patience = 0.2
    with pytest.raises(WorkspaceError, match=r"no connection to 127\.0\.0\.1.*; nothing was written"):
        registry.write((insert("lake_files", row(1)), [row(1)]))
    registry._patience = 20
    back = threading.Timer(0.5, lambda: server.control("start"))
    back.start()
    assert len(registry.rows("SELECT * FROM lake_files")) == 1
    back.join()


def test_opening_together_migrates_once(server: Any, database: str, tmp_path: Path) -> None:
    settings = settings_of(server, database, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_registry(settings, Keys).rows("SELECT 1 AS one"), range(4)))
    assert found == [[{"one": 1}]] * 4


def test_a_newer_registry_is_refused(registry: Registry, server: Any, database: str, tmp_path: Path) -> None:
    registry.rows("SELECT 1")
    server.run(f"UPDATE {SCHEMA}.alembic_version_data SET version_num = '9999_later'", database)
    with pytest.raises(WorkspaceError, match="its data tables are at revision 9999_later"):
        open_registry(settings_of(server, database, tmp_path), Keys).rows("SELECT 1")


def test_one_is_alone_until_its_connection_ends(registry: Registry) -> None:
    order: list[str] = []

    def second() -> None:
        with registry.alone("table X"):
            order.append("second")

    with registry.alone("table X"):
        with registry.alone("table Y"):
            thread = threading.Thread(target=second)
            thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def _append(place: Path, url: str, number: int) -> None:
    """Commit three files over connections of its own, and without any lock."""
    registry = open_registry(Settings(place, catalog_url=url), Keys)
    storage = FolderStorage(place / "lake")
    table = tables.make_table(tables.open_catalog(registry.engine, storage), parse_table(TABLE))
    for n in range(3):
        year = 1970 + 3 * number + n
        moment = datetime(year, 1, 3, tzinfo=UTC)
        rows = pl.DataFrame(
            {
                tables.DAY: [moment],
                "ts_event": [int(moment.timestamp()) * 10**9],
                "symbol": ["SPX"],
                "volume": [1],
            }
        ).with_columns(pl.col(tables.DAY).cast(pl.Datetime("us", "UTC")), *PRICES)
        files = tables.write_files(table, rows, layout=LAYOUTS["ohlcv-1d"], origin=f"{year}" * 16)
        tables.commit(table, files, raw_sha256=f"{year}" * 16)


def test_writers_on_several_hosts_lose_nothing(
    registry: Registry, server: Any, database: str, tmp_path: Path
) -> None:
    settings = settings_of(server, database, tmp_path)
    with ThreadPoolExecutor(3) as hosts:
        work = [hosts.submit(_append, tmp_path, settings.catalog_url, n) for n in range(3)]
    assert [one.result() for one in work] == [None] * 3
    catalog = tables.open_catalog(registry.engine, FolderStorage(tmp_path / "lake"))
    table = catalog.load_table(parse_table(TABLE).identifier)
    assert len(tables.planned(table)) == len(tables.commits(table)) == 9
    assert table.current_snapshot().summary["total-records"] == "9"
