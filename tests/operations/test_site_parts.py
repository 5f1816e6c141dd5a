"""The whole stream on the servers of a site: Vault, PostgreSQL, S3 with Object Lock and a witness, all over TLS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import researchkit
from researchkit.errors import IntegrityError, SecretUnavailable
from researchkit.jobs.runner import execute_here
from researchkit.operations.demo import demo
from researchkit.operations.verify import verify
from researchkit.security.installation import install
from researchkit.security.note import origin_of
from researchkit.security.secret import Secret

pytestmark = pytest.mark.xdist_group("radosgw")


@pytest.fixture(scope="module")
def site(
    openbao: Any, postgresql: Any, radosgw: Any, witness: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A workspace with six URLs of its own, its credentials in the vault, its log known to the witness."""
    place = tmp_path_factory.mktemp("site")
    postgresql.run("CREATE DATABASE site")
    librarian = {"user": Secret("site_librarian"), "password": Secret(os.urandom(12).hex())}
    postgresql.run(f"CREATE ROLE site_librarian LOGIN PASSWORD '{librarian['password'].reveal()}'")
    postgresql.run("CREATE DATABASE site_lake OWNER site_librarian")
    writer = {"user": Secret("site_writer"), "password": Secret(os.urandom(12).hex())}
    install(postgresql.url("site"), postgresql.admin, writer)
    store = f"endpoint={radosgw.endpoint}&secret=raw-writer&ca={radosgw.ca}&region=us-east-1&retention=30"
    lines = {
        "raw_url": f"s3://{radosgw.bucket()}/zone?{store}",
        "lake_url": f"s3://{radosgw.bucket(locked=False)}/lake?{store.replace('raw-writer', 'lake-writer').partition('&retention')[0]}",
        "catalog_url": f"{postgresql.url('site_lake')}&secret=librarian",
        "ledger_url": f"{postgresql.url('site')}&secret=ledger-writer",
        "secrets_url": openbao.url(openbao.role(place, name="site", role="keeper"), name="site"),
        "witness_url": f"https://127.0.0.1:{witness.port}?key={witness.key}&name={witness.name}&ca={witness.ca}",
    }
    root = place / "workspace"
    root.mkdir()
    (root / "researchkit.toml").write_text("".join(f'{k} = "{v}"\n' for k, v in lines.items()))
    ws = researchkit.open(root)
    ws.secrets.put("ledger-writer", writer)
    keys = {"access_key": Secret(radosgw.access_key), "secret_key": Secret(radosgw.secret_key)}
    ws.secrets.put("raw-writer", keys)
    ws.secrets.put("lake-writer", keys)
    ws.secrets.put("librarian", librarian)
    key = ws.keys.signer().public_hex
    witness.trust(origin_of(key), key)
    return ws


@pytest.fixture(scope="module")
def finished(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same after the demo on two symbols and 504 sessions."""
    from killing import write_stream

    source = tmp_path_factory.mktemp("vendor") / "two-years.dbn.zst"
    write_stream(source)
    return demo(site, source=str(source), quiet=True, executing=execute_here)


def test_the_stream_ends_in_a_cosigned_verdict(finished: Any, site: Any) -> None:
    assert finished.table
    report = site.ledger.verify()
    assert report.witnessed == report.entries
    assert [f.words for f in site.raw.verify() if not f.ok] == []


def test_nothing_that_opens_the_data_lies_in_the_folder(finished: Any, site: Any) -> None:
    assert list((site.root / "keys").iterdir()) == []
    pieces = site.secrets.pieces() + site.keys.fingerprints()
    assert len(pieces) > 3
    files = [p for p in site.root.rglob("*") if p.is_file()]
    assert len(files) > 20
    assert [p.name for p in files for piece in pieces if piece in p.read_bytes()] == []
    assert not [p for p in (site.root / "raw").rglob("*") if p.is_file() and p.stat().st_size]
    assert not [p for p in (site.root / "lake").rglob("*") if p.is_file() and p.stat().st_size]
    assert not (site.root / "catalog.db").exists()


def test_the_lake_in_the_bucket_holds_what_its_catalog_says(finished: Any, site: Any) -> None:
    findings = site.lake.verify()
    assert len(findings) >= 2
    assert [f.words for f in findings if not f.ok] == []
    held = site.lake.tables()["rows"].sum()
    assert site.lake.scan(site.lake.tables()["table"][0]).collect().height == held
    assert [link for link in verify(site, "latest") if not link.ok] == []


def test_a_history_rewritten_with_every_right_of_the_owner_is_seen(
    finished: Any, site: Any, postgresql: Any
) -> None:
    def rewrite(old: str, new: str) -> None:
        postgresql.run("ALTER TABLE researchkit.entries DISABLE TRIGGER ALL", "site")
        change = f"UPDATE researchkit.entries SET body = replace(body, '{old}', '{new}') WHERE kind = 'trial'"
        postgresql.run(change, "site")
        for guard in ("next", "keep", "stay"):
            postgresql.run(f"ALTER TABLE researchkit.entries ENABLE ALWAYS TRIGGER entries_{guard}", "site")

    before = site.ledger.verify()
    rewrite("parameters", "parameterz")
    with pytest.raises(IntegrityError, match="hash differs, the row was changed"):
        site.ledger.verify()
    rewrite("parameterz", "parameters")
    assert site.ledger.verify() == before


def test_a_sealed_vault_ends_all_reading(finished: Any, site: Any, openbao: Any) -> None:
    one = site.raw.objects()[0].sha256
    openbao.seal()
    try:
        with pytest.raises(SecretUnavailable, match="sealed"):
            site.raw.get(one)
    finally:
        openbao.unseal()
    assert Path(site.root, "VERSION").is_file()
