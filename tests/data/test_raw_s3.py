"""The raw zone in a bucket: a real server with Object Lock, and a proxy that breaks what passes through it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faulty import Faulty, before
from radosgw import Radosgw
from tls import Authority

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.s3 import S3Store
from researchkit.data.store import Store
from researchkit.data.transfer import PART
from researchkit.errors import AccessDenied, IntegrityError, SecretUnavailable, SettingsError, WorkspaceError
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install
from researchkit.security.secret import Secret
from researchkit.settings import address

pytestmark = pytest.mark.xdist_group("radosgw")

ME = Context(Principal("engineer3", ("data-engineer", "quant", "custodian")))
TABLE = "DEMO/ohlcv-1d"
DAY = 86_400 * 10**9
NAME = "objects/ab/cdef"


def store_at(
    endpoint: str,
    server: Radosgw,
    bucket: str,
    *,
    days: int = 1,
    ca: Path | None = None,
    keys: Callable[[], Mapping[str, Secret]] | None = None,
) -> S3Store:
    pair = {"access_key": Secret(server.access_key), "secret_key": Secret(server.secret_key)}
    return store_of(endpoint, ca or server.ca, bucket, keys or (lambda: pair), days=days)


def store_of(
    endpoint: str, ca: Path, bucket: str, keys: Callable[[], Mapping[str, Secret]], *, days: int = 1
) -> S3Store:
    url = f"s3://{bucket}/zone?endpoint={endpoint}&secret=bucket"
    return S3Store(address("raw_url", url), keys, ca=ca, retention_days=days)


@pytest.fixture(scope="module")
def faulty(radosgw: Radosgw, authority: Authority) -> Iterator[Faulty]:
    with before(radosgw, authority) as running:
        yield running


@pytest.fixture
def bucket(radosgw: Radosgw) -> str:
    return radosgw.bucket()


@pytest.fixture
def store(radosgw: Radosgw, bucket: str) -> S3Store:
    return store_at(radosgw.endpoint, radosgw, bucket)


@pytest.fixture
def broken(radosgw: Radosgw, bucket: str, faulty: Faulty) -> Iterator[S3Store]:
    """The same bucket, reached through the proxy."""
    faulty.clear()
    yield store_at(faulty.endpoint, radosgw, bucket)
    faulty.clear()


def zone(root: Path, store: Store) -> SimpleNamespace:
    install(root / "policy")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    registry, keys = Registry(f"sqlite:///{root}/catalog.db"), Keyring(root / "keys")
    raw = RawZone(root / "raw", registry=registry, keyring=keys, door=door, store=store)
    return SimpleNamespace(raw=raw, door=door, registry=registry)


def put(raw: RawZone, content: bytes, name: str = "x", **given: Any) -> Any:
    return raw.put(content, name=name, key="demo", table=TABLE, context=ME, **given)


def soon(seconds: float = 3_600) -> int:
    return int((datetime.now(UTC) + timedelta(seconds=seconds)).timestamp()) * 10**9


@functools.cache
def text(size: int) -> bytes:
    return random.Random(7).randbytes(size)


# --- what Object Lock promises -------------------------------------------------------------------


def test_nobody_deletes_or_shortens_before_the_date(radosgw: Radosgw, store: S3Store, bucket: str) -> None:
    kept = store.publish(NAME, lambda sink: sink.write(b"paid for"), until_ns=soon())
    admin, where = radosgw.admin, {"Bucket": bucket, "Key": f"zone/{NAME}", "VersionId": kept.version}
    earlier = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=60)}
    weaker = {"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(hours=2)}
    for attempt in (
        lambda: admin.delete_object(**where),
        lambda: admin.delete_object(**where, BypassGovernanceRetention=True),
        lambda: admin.put_object_retention(**where, Retention=earlier),
        lambda: admin.put_object_retention(**where, Retention=earlier, BypassGovernanceRetention=True),
        lambda: admin.put_object_retention(**where, Retention=weaker, BypassGovernanceRetention=True),
    ):
        with pytest.raises(admin.exceptions.ClientError) as refused:
            attempt()
        assert refused.value.response["Error"]["Code"] == "AccessDenied"
    with pytest.raises(AccessDenied, match="must be kept until"):
        store.delete(NAME, kept.version)
    assert store.open(NAME, kept.version).read() == b"paid for"


@pytest.mark.parametrize("size", [PART, PART + 1], ids=["whole", "parts"])
def test_an_acknowledged_object_has_its_date_whatever_the_server_forgot(store: S3Store, size: int) -> None:
    until = soon(7_200)
    kept = store.publish(NAME, lambda sink: sink.write(text(size)), until_ns=until)
    found = store.stat(NAME, kept.version)
    assert found is not None
    assert (found.bytes, found.until_ns, found.version) == (size, until, kept.version)
    assert kept.sha256 == hashlib.sha256(text(size)).hexdigest()


def test_a_date_moves_later_only_and_a_hold_outlasts_it(store: S3Store) -> None:
    kept = store.publish(NAME, lambda sink: sink.write(b"paid for"), until_ns=soon(3))
    store.retain(NAME, kept.version, until_ns=soon(1))
    first = store.stat(NAME, kept.version)
    store.hold(NAME, kept.version, on=True)
    held = store.stat(NAME, kept.version)
    assert first is not None
    assert held is not None
    assert (held.held, held.until_ns) == (True, first.until_ns)
    with pytest.raises(AccessDenied, match="legal hold"):
        store.delete(NAME, kept.version)
    store.hold(NAME, kept.version, on=False)
    store.retain(NAME, kept.version, until_ns=soon(3_600))
    with pytest.raises(AccessDenied, match="must be kept until"):
        store.delete(NAME, kept.version)


def test_an_overwritten_or_hidden_name_keeps_what_was_kept(
    radosgw: Radosgw, store: S3Store, bucket: str, tmp_path: Path
) -> None:
    ws = zone(tmp_path, store)
    kept = put(ws.raw, b"paid for")
    admin, key = radosgw.admin, f"zone/{kept.path}"
    admin.put_object(Bucket=bucket, Key=key, Body=b"something else")
    assert ws.raw.get(kept.sha256, context=ME) == b"paid for"
    admin.delete_object(Bucket=bucket, Key=key)
    assert ws.raw.get(kept.sha256, context=ME) == b"paid for"
    assert [f.ok for f in ws.raw.verify()] == [True]


def test_a_name_overwritten_before_its_row_is_written_again(
    radosgw: Radosgw, store: S3Store, bucket: str, tmp_path: Path
) -> None:
    ws = zone(tmp_path, store)
    sha256 = hashlib.sha256(b"paid for").hexdigest()
    stranger = f"zone/objects/{sha256[:2]}/{sha256[2:]}"
    radosgw.admin.put_object(Bucket=bucket, Key=stranger, Body=b"something else")
    assert ws.raw.get(put(ws.raw, b"paid for").sha256, context=ME) == b"paid for"


def test_what_was_kept_can_be_deleted_after_its_date_and_not_before(
    radosgw: Radosgw, bucket: str, tmp_path: Path
) -> None:
    ws = zone(tmp_path, store_at(radosgw.endpoint, radosgw, bucket))
    kept = put(ws.raw, b"paid for")
    assert kept.until_ns > kept.put_ns
    with pytest.raises(AccessDenied, match="x must be kept until"):
        ws.raw.delete(kept.sha256, context=ME)
    with pytest.raises(ValueError, match="can only be made later"):
        ws.raw.retain(kept.sha256, datetime.now(UTC), context=ME)
    ws.raw.hold(kept.sha256, True, "case 4711", context=ME)
    assert ws.raw.custody(kept.sha256).held
    assert ws.raw.find(kept.sha256).held
    assert [e.kind for e in ws.door.ledger.entries() if e.kind in ("hold", "delete")] == ["hold"]


# --- which buckets, which servers, which surroundings ---------------------------------------------


def test_a_bucket_that_does_not_keep_things_is_refused(radosgw: Radosgw, bucket: str) -> None:
    plain = radosgw.bucket(locked=False)
    with pytest.raises(WorkspaceError, match="has no versioning; make one with Object Lock"):
        store_at(radosgw.endpoint, radosgw, plain).stat(NAME)
    radosgw.admin.put_bucket_versioning(Bucket=plain, VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(WorkspaceError, match="has no Object Lock, which only a new bucket can get"):
        store_at(radosgw.endpoint, radosgw, plain).stat(NAME)
    with pytest.raises(WorkspaceError, match="nobody says how long objects stay"):
        store_at(radosgw.endpoint, radosgw, bucket, days=0).stat(NAME)
    with pytest.raises(IntegrityError, match=r"bucket nowhere-at-all is missing \(NoSuchBucket\)"):
        store_at(radosgw.endpoint, radosgw, "nowhere-at-all").stat(NAME)


def test_a_bucket_with_a_rule_of_its_own_needs_none_from_us(radosgw: Radosgw, bucket: str) -> None:
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 2}}
    radosgw.admin.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    store = store_at(radosgw.endpoint, radosgw, bucket, days=0)
    kept = store.publish(NAME, lambda sink: sink.write(b"paid for"))
    found = store.stat(NAME, kept.version)
    assert found is not None
    assert found.until_ns > soon(86_400)


def test_only_the_named_server_with_the_named_authority_is_spoken_to(
    radosgw: Radosgw, bucket: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="there is no default"):
        S3Store(address("raw_url", f"s3://{bucket}/zone?secret=bucket"), dict)
    with pytest.raises(SettingsError, match="there is no default"):
        store_at(radosgw.endpoint.replace("https", "http"), radosgw, bucket)
    stranger = Authority(tmp_path / "stranger")
    with pytest.raises(WorkspaceError, match="the server's certificate is not trusted"):
        store_at(radosgw.endpoint, radosgw, bucket, ca=stranger.ca).stat(NAME)
    with pytest.raises(WorkspaceError, match="cannot be reached"):
        store_at("https://127.0.0.1:1", radosgw, bucket).stat(NAME)


def test_the_surroundings_are_not_listened_to(
    radosgw: Radosgw, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").write_text(
        "[default]\nendpoint_url = https://example.com\nregion = eu-west-1\n"
    )
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id=A\naws_secret_access_key=B\n")
    for name, value in {
        "HOME": str(home),
        "AWS_ENDPOINT_URL": "https://example.com",
        "AWS_ENDPOINT_URL_S3": "https://example.com",
        "AWS_ACCESS_KEY_ID": "AMBIENT",
        "AWS_SECRET_ACCESS_KEY": "ambient",
        "AWS_PROFILE": "somebody",
        "AWS_CA_BUNDLE": "/nowhere",
        "REQUESTS_CA_BUNDLE": "/nowhere",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    store = store_at(radosgw.endpoint, radosgw, bucket)
    kept = store.publish(NAME, lambda sink: sink.write(b"paid for"), until_ns=soon())
    assert store.open(NAME, kept.version).read() == b"paid for"
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(SecretUnavailable, match="no field access_key and secret_key"):
        store_at(radosgw.endpoint, radosgw, bucket, keys=dict).stat(NAME)


def test_wrong_credentials_are_said_and_right_ones_never(
    radosgw: Radosgw, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"access_key": Secret(radosgw.access_key), "secret_key": Secret("a wrong secret key")}
    with caplog.at_level(logging.DEBUG):
        with pytest.raises((SecretUnavailable, AccessDenied)) as refused:
            store_at(radosgw.endpoint, radosgw, bucket, keys=lambda: wrong).stat(NAME)
        store = store_at(radosgw.endpoint, radosgw, bucket)
        store.publish(NAME, lambda sink: sink.write(b"paid for"), until_ns=soon())
    told = caplog.text + str(refused.value) + repr(store) + repr(vars(store))
    assert radosgw.secret_key not in told
    assert "a wrong secret key" not in told


# --- servers and lines that fail ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["500", "drop", "lose"])
def test_a_write_survives_a_server_that_fails_in_the_middle(
    broken: S3Store, faulty: Faulty, kind: str
) -> None:
    content = text(PART + 5)
    for method, path in (("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId"), ("HEAD", NAME)):
        faulty.next(kind, method, path)
    faulty.next(kind, "PUT", "retention")
    kept = broken.publish(NAME, lambda sink: sink.write(content), until_ns=soon())
    assert all(fault.left == 0 for fault in faulty.faults)
    assert broken.open(NAME, kept.version).read() == content
    found = broken.stat(NAME, kept.version)
    assert found is not None
    assert found.until_ns >= soon() - 60 * 10**9


def test_a_bit_that_flips_on_the_way_is_not_taken(broken: S3Store, faulty: Faulty) -> None:
    faulty.next("flip", "PUT", "partNumber=1")
    with pytest.raises(IntegrityError, match=r"did not take the bytes as they were sent \(BadDigest\)"):
        broken.publish(NAME, lambda sink: sink.write(text(PART + 5)), until_ns=soon())
    faulty.clear()
    faulty.next("flip", "PUT", NAME)
    with pytest.raises(IntegrityError, match="BadDigest"):
        broken.publish(NAME, lambda sink: sink.write(b"paid for"), until_ns=soon())
    assert broken.stat(NAME) is None
    assert broken.sweep() == 0


def test_a_server_that_goes_on_failing_is_said_and_leaves_nothing(
    broken: S3Store, faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *a: 0.01)
    ws = zone(tmp_path, broken)
    faulty.next("500", "PUT", "partNumber", times=99)
    with pytest.raises(WorkspaceError, match=r"the server answered InternalError \(500\); try again later"):
        put(ws.raw, text(PART + 5))
    assert ws.raw.objects() == []
    assert ws.door.ledger.entries(kind="object") == []
    faulty.clear()
    assert put(ws.raw, text(PART + 5)).bytes == PART + 5
    assert [f.ok for f in ws.raw.verify()] == [True]


def test_a_read_that_is_cut_goes_on_where_it_was(broken: S3Store, faulty: Faulty) -> None:
    content = text(PART + 5)
    kept = broken.publish(NAME, lambda sink: sink.write(content), until_ns=soon())
    faulty.next("half", "GET", NAME, times=3)
    faulty.next("500", "GET", NAME)
    assert broken.open(NAME, kept.version).read() == content
    ranges = [path for method, path in faulty.seen if method == "GET" and NAME in path]
    assert len(ranges) == 5
    assert all("versionId=" in path for path in ranges)


def test_uploads_that_nobody_completes_are_swept(
    radosgw: Radosgw, store: S3Store, bucket: str, tmp_path: Path
) -> None:
    admin = radosgw.admin
    for key in ("zone/objects/ab/1", "zone/objects/ab/2", "elsewhere/objects/ab/3"):
        admin.create_multipart_upload(Bucket=bucket, Key=key)
    put(zone(tmp_path, store).raw, b"paid for")
    assert len(admin.list_multipart_uploads(Bucket=bucket).get("Uploads", [])) == 3  # somebody's, perhaps
    store._failed.add(admin.list_multipart_uploads(Bucket=bucket)["Uploads"][-1]["UploadId"])
    assert store.sweep() == 1
    store._clock = lambda: time.time_ns() + 2 * 86_400 * 10**9
    assert store.sweep() == 1
    left = admin.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [u["Key"] for u in left] == ["elsewhere/objects/ab/3"]


def test_a_neighbours_sweep_does_not_end_an_upload_under_way(store: S3Store) -> None:
    def write(sink: Any) -> None:
        for number in range(3):
            sink.write(text(PART))
            assert store.sweep() == 0, number

    assert store.publish(NAME, write).bytes == 3 * PART


def test_a_broken_promise_leaves_neither_object_nor_upload(
    radosgw: Radosgw, store: S3Store, bucket: str, tmp_path: Path
) -> None:
    ws = zone(tmp_path, store)
    with pytest.raises(IntegrityError, match="as in the manifest, its SHA-256 must be 0000"):
        put(ws.raw, text(PART + 5), vendor_sha256="0" * 64)
    assert radosgw.admin.list_object_versions(Bucket=bucket).get("Versions", []) == []
    assert radosgw.admin.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_killed_at_each_instant_of_an_objects_life_in_a_bucket(radosgw: Radosgw, tmp_path: Path) -> None:
    """Parts, their date, and the row: whatever was there is completed, and nothing is there twice."""
    task = {
        "kind": "s3",
        "place": str(tmp_path),
        "sites": ["part", "hold:before", "ingest:before"],
        "bucket": radosgw.bucket(),
    }
    task |= {"access_key": radosgw.access_key, "secret_key": radosgw.secret_key}
    task |= {"endpoint": radosgw.endpoint, "ca": str(radosgw.ca)}
    program = Path(__file__).parent / "raw_kills.py"
    done = subprocess.run(
        [sys.executable, program], input=json.dumps(task), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["wrong"], len(said["instants"])) == ({}, 4)
    assert radosgw.admin.list_multipart_uploads(Bucket=task["bucket"]).get("Uploads", []) == []
