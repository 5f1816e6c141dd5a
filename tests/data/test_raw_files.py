"""The raw zone in a folder: who tries to write elsewhere, twice, too much, or over what is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from researchkit.context import Context, Principal
from researchkit.data import migrations
from researchkit.data.custody import instant
from researchkit.data.door import Door
from researchkit.data.objects import Objects, RawObject, hash_of, place_of
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry, insert
from researchkit.data.rehash import rehash
from researchkit.data.store import FileStore
from researchkit.errors import AccessDenied, IntegrityError, NotFound, ResearchKitError, WorkspaceError
from researchkit.security.database import migrate
from researchkit.security.durable import clear_immutable
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

ME = Context(Principal("engineer3", ("data-engineer", "quant", "custodian")))
TABLE = "DEMO/ohlcv-1d"


def zone(root: Path, folder: Path | None = None, **given: Any) -> SimpleNamespace:
    install(root / "policy")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    registry, keys = Registry(f"sqlite:///{root}/catalog.db"), Keyring(root / "keys")
    options = {"immutable": False} | given
    raw = RawZone(folder or root / "raw", registry=registry, keyring=keys, door=door, **options)
    return SimpleNamespace(raw=raw, door=door, registry=registry, root=root, keys=keys)


@pytest.fixture
def ws(tmp_path: Path) -> SimpleNamespace:
    return zone(tmp_path)


def put(raw: RawZone, content: bytes | Path, name: str = "x", **given: Any) -> RawObject:
    return raw.put(content, **({"name": name, "key": "demo", "table": TABLE, "context": ME} | given))


# --- names, links, and other ways to be somewhere else ------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../../policy/grants.json",
        "/etc/cron.d/x",
        "x\0.dbn",
        "..",
        "a\\b",
        "\u2025",
        "x\u202egpj",
        "e\u0301",
        "\ud800",
    ],
    ids=ascii,
)
def test_a_name_that_is_not_what_it_looks_like_reaches_nothing(ws: SimpleNamespace, name: str) -> None:
    with pytest.raises(ValueError, match="a raw object's name "):
        put(ws.raw, b"paid for", name)
    assert ws.door.ledger.entries() == []
    assert not (ws.root / "raw").exists()


def test_a_folder_that_became_a_link_takes_no_object(ws: SimpleNamespace, tmp_path: Path) -> None:
    sha256, elsewhere = hash_of(b"paid for"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (ws.root / "raw" / "objects").mkdir(parents=True)
    (ws.root / "raw" / "objects" / sha256[:2]).symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="there is a link or no folder on the way"):
        put(ws.raw, b"paid for")
    assert list(elsewhere.iterdir()) == []
    assert ws.raw.find(sha256) is None
    assert ws.door.ledger.entries(kind="object") == []


def test_a_link_that_appears_in_the_middle_of_a_write_is_not_acknowledged(
    ws: SimpleNamespace, tmp_path: Path
) -> None:
    elsewhere, folder = tmp_path / "elsewhere", ws.root / "raw" / "objects" / "ab"
    elsewhere.mkdir()

    def write(sink: Any) -> None:
        sink.write(b"paid for")
        folder.parent.mkdir(parents=True)
        folder.symlink_to(elsewhere)

    with pytest.raises(IntegrityError, match="there is a link or no folder on the way"):
        FileStore(ws.root / "raw", immutable=False).publish("objects/ab/cd", write)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_under_an_objects_name_is_neither_read_nor_adopted(
    ws: SimpleNamespace, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"something else")
    place = ws.root / "raw" / place_of(hash_of(b"paid for"))
    put(ws.raw, b"another")  # makes the key
    place.parent.mkdir(parents=True, exist_ok=True)
    link(outside, place)
    with pytest.raises(IntegrityError, match=r"a link or no folder on the way|does not open under key"):
        put(ws.raw, b"paid for")
    assert outside.read_bytes() == b"something else"
    assert ws.raw.find(hash_of(b"paid for")) is None


def test_swapped_objects_do_not_open_and_are_named(ws: SimpleNamespace) -> None:
    one, two = put(ws.raw, b"one", "1"), put(ws.raw, b"two", "2")
    a, b, spare = (ws.root / "raw" / p for p in (one.path, two.path, "spare"))
    for source, target in ((a, spare), (b, a), (spare, b)):
        source.rename(target)
    for found in (one, two):
        with pytest.raises(IntegrityError, match=f"object {found.sha256} does not open under key 'demo'"):
            ws.raw.get(found.sha256, context=ME)
        with pytest.raises(IntegrityError), ws.raw.open(found.sha256, context=ME) as stream:
            stream.read(1)
    assert [f.ok for f in rehash(ws.raw).broken] == [False, False]


def test_a_stranger_can_neither_change_nor_remove_an_object() -> None:
    """Run as another account where this one may become one, and as this one elsewhere."""
    script = """
import os, sys
path = sys.argv[1]
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
done = []
for act in (lambda: open(path, "r+b"), lambda: os.unlink(path), lambda: os.chmod(path, 0o600)):
    try:
        act(); done.append(act)
    except PermissionError:
        pass
sys.exit(len(done))
"""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    root = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    root.chmod(0o755)
    try:
        ws = zone(root)
        kept = put(ws.raw, b"paid for")
        assert (
            subprocess.run([sys.executable, "-c", script, root / "raw" / kept.path], check=False).returncode
            == 0
        )
        assert ws.raw.get(kept.sha256, context=ME) == b"paid for"
    finally:
        shutil.rmtree(root)


# --- several writers ----------------------------------------------------------------------------


def test_of_eight_writers_of_a_new_name_one_wins_and_seven_are_told(tmp_path: Path) -> None:
    zone(tmp_path).raw.find("0")

    def attempt(number: int) -> str:
        try:
            return put(zone(tmp_path).raw, b"delivery %d" % number, expect=0).sha256
        except IntegrityError as e:
            return str(e)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(attempt, range(8)))
    won = [s for s in said if len(s) == 64]
    assert len(won) == 1
    assert (
        sum("its last version must be 0, and is 1: engineer3 put it; nothing was kept" in s for s in said)
        == 7
    )
    ws = zone(tmp_path)
    assert [v.sha256 for v in ws.raw.versions("x", TABLE)] == won
    assert len(list((tmp_path / "raw" / "objects").rglob("*/*"))) == 1


def test_every_writer_who_does_not_mind_becomes_a_version(tmp_path: Path) -> None:
    zone(tmp_path).raw.find("0")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: put(zone(tmp_path).raw, b"delivery %d" % n).sha256, range(4)))
    ws = zone(tmp_path)
    assert sorted(v.sha256 for v in ws.raw.versions("x", TABLE)) == sorted(made)
    assert [v.version for v in ws.raw.versions("x", TABLE)] == [1, 2, 3, 4]


# --- dates and holds ----------------------------------------------------------------------------


def test_taking_the_records_away_frees_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "raw", retention_days=1, immutable=False)
    ws = zone(tmp_path, store=store)
    kept = put(ws.raw, b"paid for")
    ws.raw.hold(kept.sha256, True, "case 4711", context=ME)
    shutil.rmtree(tmp_path / "raw" / "holds")
    ws.registry.write(("UPDATE raw_objects SET until_ns = 0, held = 0", [{}]))
    with pytest.raises(AccessDenied, match="is under a legal hold"):
        ws.raw.delete(kept.sha256, context=ME)
    ws.raw.hold(kept.sha256, False, "case 4711 is closed", context=ME)
    with pytest.raises(AccessDenied, match="must be kept until"):
        ws.raw.delete(kept.sha256, context=ME)
    assert ws.raw.get(kept.sha256, context=ME) == b"paid for"


def test_what_is_deleted_after_its_date_is_gone_and_remembered(tmp_path: Path) -> None:
    now = [instant(datetime.now(UTC))]
    store = FileStore(tmp_path / "raw", retention_days=1, immutable=False, clock=lambda: now[0])
    ws = zone(tmp_path, store=store, clock=lambda: now[0])
    kept = put(ws.raw, b"paid for")
    now[0] += int(timedelta(days=2).total_seconds()) * 10**9
    ws.raw.delete(kept.sha256, context=ME)
    assert ws.raw.objects() == []
    assert ws.raw.verify() == []
    with pytest.raises(NotFound, match=r"\(x\) was deleted on "):
        ws.raw.get(kept.sha256, context=ME)
    with pytest.raises(AccessDenied, match="what was deleted does not come back"):
        put(ws.raw, b"paid for")


def test_the_immutable_flag_stops_a_deletion(tmp_path: Path) -> None:
    ws = zone(tmp_path, immutable=True)
    kept = put(ws.raw, b"paid for")
    try:
        if ws.raw.custody(kept.sha256).fixed:
            with pytest.raises(AccessDenied, match="only researchkit workspace destroy takes that off"):
                ws.raw.delete(kept.sha256, context=ME)
            with pytest.raises(PermissionError):
                (tmp_path / "raw" / kept.path).unlink()
        assert ws.raw.get(kept.sha256, context=ME) == b"paid for"
        assert ws.door.ledger.entries(kind="delete") == []
    finally:
        clear_immutable(tmp_path / "raw" / kept.path)


# --- large, full, cut ---------------------------------------------------------------------------


def test_with_a_manifest_the_bytes_are_read_once(ws: SimpleNamespace, tmp_path: Path) -> None:
    """From a pipe, which cannot be read twice."""
    pipe, content = tmp_path / "pipe", os.urandom(3 << 20)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    kept = put(ws.raw, pipe, vendor_sha256=hash_of(content))
    writer.join()
    assert ws.raw.get(kept.sha256, context=ME) == content


def test_a_file_that_changes_between_two_readings_is_refused(
    ws: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"

    def read_and_changed(path: Path) -> str:
        source.write_bytes(b"changed")
        return hashlib.sha256(b"paid for").hexdigest()

    monkeypatch.setattr("researchkit.data.raw.hash_of", read_and_changed)
    with pytest.raises(IntegrityError, match="x: SHA-256 must be "):
        put(ws.raw, source)
    assert [p for p in (ws.root / "raw").rglob("*") if p.is_file() and p.name != ".lock"] == []


MEMORY = """
import hashlib, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from raw_kills import ME, FileStore, zone

def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1024

root = Path(sys.argv[2])
ws = zone(root, FileStore(root / "raw", immutable=False))
given = {"key": "demo", "table": "DEMO/ohlcv-1d", "context": ME}
ws.raw.put(b"warm up", name="w", **given)
before = peak()
size, digest = 200 << 20, hashlib.sha256()
with open(root / "big", "wb") as file:
    for n in range(size >> 20):
        piece = hashlib.shake_128(n.to_bytes(4)).digest(1 << 10) * (1 << 10)
        file.write(piece)
        digest.update(piece)
kept = ws.raw.put(root / "big", name="big", vendor_sha256=digest.hexdigest(), **given)
with ws.raw.open(kept.sha256, context=ME) as stream:
    total = sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b""))
whole = ws.raw.verify(kept.sha256)[0].ok
print(json.dumps({"total": total, "whole": whole, "grown": peak() - before, "peak": peak()}))
"""


def test_two_hundred_megabytes_pass_through_a_hundred(
    tmp_path: Path, record_property: Callable[..., None]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, Path(__file__).parent, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    record_property(
        "summary",
        f"raw zone, 200 MiB: {said['grown']:.0f} MiB above the {said['peak'] - said['grown']:.0f} MiB of the program",
    )
    assert (said["total"], said["whole"]) == (200 << 20, True)
    assert said["grown"] < 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of six megabytes on a loop device."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(6 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, check=False).returncode:
        pytest.skip("this account cannot mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_said_and_leaves_room_for_what_was_there(tmp_path: Path, small_disk: Path) -> None:
    ws = zone(tmp_path, small_disk / "raw")
    small = put(ws.raw, b"paid for", "small")
    with pytest.raises(WorkspaceError, match="the disk takes no more bytes: No space left on device"):
        put(ws.raw, os.urandom(8 << 20), "large")
    assert [o.name for o in ws.raw.objects()] == ["small"]
    assert list(small_disk.rglob(".tmp-*")) == []
    assert ws.raw.get(small.sha256, context=ME) == b"paid for"
    assert put(ws.raw, os.urandom(1 << 20), "medium").bytes == 1 << 20


def test_a_stream_that_is_cut_or_changed_never_ends_well(ws: SimpleNamespace) -> None:
    kept = put(ws.raw, os.urandom(3 << 20))
    path = ws.root / "raw" / kept.path
    whole = path.read_bytes()
    path.chmod(0o644)
    flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    for damaged in (whole[:-1], whole[: 2 << 20], whole + b"x", b"", flipped):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError), ws.raw.open(kept.sha256, context=ME) as stream:
            stream.read()
        assert [f.ok for f in ws.raw.verify()] == [False]


# --- what was there before, and what dies -------------------------------------------------------


def test_objects_from_before_versions_are_found_and_open(tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for path in Path(next(iter(migrations.__path__))).glob("r000[12]_*.py"):
        shutil.copy(path, older)
    db = migrate(f"sqlite:///{tmp_path}/catalog.db", older, name="data")
    files = Objects(FileStore(tmp_path / "raw", immutable=False), Keyring(tmp_path / "keys"))
    stored, size = files.publish(b"paid for", hash_of(b"paid for"), "demo")
    row = {
        "sha256": hash_of(b"paid for"), "cipher_sha256": stored.sha256, "bytes": size, "cipher_bytes": stored.bytes,
        "name": "x", "table_name": TABLE, "key_name": "demo", "vendor_sha256": None, "put_ns": 7, "put_by": "somebody",
    }  # fmt: skip
    with db.begin() as connection:
        connection.execute(sa.text(insert("raw_objects", row)), row)
    db.dispose()
    ws = zone(tmp_path)
    assert ws.raw.get(row["sha256"], context=ME) == b"paid for"
    assert [(v.version, v.put_by) for v in ws.raw.versions("x", TABLE)] == [(1, "somebody")]
    assert (tmp_path / "catalog.db.backup-data-0002_shared").is_file()
    assert put(ws.raw, b"corrected", expect=1).name == "x"


def test_killed_at_each_instant_of_an_objects_life(tmp_path: Path) -> None:
    assert (
        _kills({"kind": "file", "place": str(tmp_path), "sites": ["object", "hold", "ingest", "shred"]}) == 8
    )


def _kills(task: dict[str, Any]) -> int:
    """How many instants left what an untouched life leaves; fails when one did not."""
    program = Path(__file__).parent / "raw_kills.py"
    done = subprocess.run(
        [sys.executable, program], input=json.dumps(task), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["wrong"] == {}
    return len(said["instants"])


def test_pages_of_the_list_follow_each_other(ws: SimpleNamespace) -> None:
    for number in range(7):
        put(ws.raw, b"%d" % number, f"name {number % 3}")
    pages = list(ws.raw.pages(size=3))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [o for page in pages for o in page] == ws.raw.objects()
    assert ws.raw.objects(TABLE, limit=2) == ws.raw.objects()[:2]
    with pytest.raises(ResearchKitError, match="no raw object 'ff"):
        ws.raw.record("ff" * 32)
