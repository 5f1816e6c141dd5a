"""A witness over TLS, asked by honest ledgers, by rewritten ones, by many at once, and killed while it answers."""

from __future__ import annotations

import http.client
import signal
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tls import Authority
from witness import WitnessServer

from researchkit.errors import AccessDenied, IntegrityError, WorkspaceError
from researchkit.security.cosigner import MOST_BYTES, evidence, request_of
from researchkit.security.merkle import Tree
from researchkit.security.note import (
    Checkpoint,
    add_signature,
    check_cosignature,
    origin_of,
    read_checkpoint,
    sign_note,
    split_note,
)
from researchkit.security.signing import LocalSigner, new_seed, signer_of
from researchkit.security.witness import WitnessClient

pytestmark = pytest.mark.xdist_group("witness")
LEAVES = [bytes([i % 251]) * 32 for i in range(400)]


class Log:
    """A log with a key of its own, and a history."""

    def __init__(self, leaves: list[bytes], signer: LocalSigner | None = None) -> None:
        """Begin with some leaves."""
        self.signer = signer or signer_of(new_seed())
        self.origin = origin_of(self.signer.public_hex)
        self.tree = Tree(lambda lo, hi: leaves[lo:hi])

    def note(self, size: int) -> str:
        """The signed checkpoint of so many leaves."""
        mark = Checkpoint(self.origin, size, self.tree.root(size))
        return sign_note(mark.text, mark.origin, self.signer)

    def rewritten(self, at: int = 2) -> Log:
        """Another history under the same key."""
        return Log([*LEAVES[:at], b"forged" * 4, *LEAVES[at + 1 :]], self.signer)

    def submit(self, client: WitnessClient, size: int) -> str:
        """Have a checkpoint cosigned."""
        note = self.note(size)
        return add_signature(note, client.submit(note, self.tree.consistency))


@pytest.fixture
def log(witness: WitnessServer) -> Log:
    """A log that the witness knows."""
    made = Log(LEAVES)
    witness.trust(made.origin, made.signer.public_hex)
    return made


def seen(witness: WitnessServer, log: Log) -> int:
    """How far the witness is."""
    note = witness.client().latest(log.origin)
    return 0 if note is None else read_checkpoint(split_note(note)[0]).size


def test_it_cosigns_what_grows(witness: WitnessServer, log: Log) -> None:
    client = witness.client()
    assert client.latest(log.origin) is None
    for size in (1, 7, 8, 300, 300):
        note = log.submit(client, size)
        assert check_cosignature(note, witness.name, witness.key) is not None
        assert split_note(client.latest(log.origin) or "")[0] == split_note(note)[0]
    assert seen(witness, log) == 300


def test_two_histories_cannot_both_be_cosigned(witness: WitnessServer, log: Log) -> None:
    log.submit(witness.client(), 100)
    forged = log.rewritten()
    for size, words in ((100, "another root of the same size"), (150, "does not continue what was cosigned")):
        with pytest.raises(IntegrityError, match=words):
            forged.submit(witness.client(), size)
    with pytest.raises(IntegrityError, match="do not continue these 60: history was rewritten"):
        forged.submit(witness.client(), 60)
    kept = [read_checkpoint(split_note(note)[0]) for note in evidence(witness.memory(), log.origin)]
    assert [(mark.size, mark.root) for mark in kept] == [(n, forged.tree.root(n)) for n in (150, 100)]
    log.submit(witness.client(), 150)  # the honest ledger goes on


def test_a_ledger_that_was_cut_back_is_refused(witness: WitnessServer, log: Log) -> None:
    log.submit(witness.client(), 90)
    short = Log(LEAVES[:80], log.signer)
    with pytest.raises(IntegrityError, match=r"has cosigned 90 entries .* its end was cut off"):
        short.submit(witness.client(), 80)
    assert seen(witness, log) == 90


def test_an_old_checkpoint_played_again_changes_nothing(witness: WitnessServer, log: Log) -> None:
    client = witness.client()
    for size in (20, 40):
        log.submit(client, size)
    with pytest.raises(WorkspaceError, match="which continue these 20: another process was quicker"):
        log.submit(client, 20)
    for old in (0, 20, 40):
        answer = witness.memory().add(old, [], log.note(20))
        assert answer.status in (400, 409)
    assert seen(witness, log) == 40


def test_a_stranger_is_not_listened_to(witness: WitnessServer, log: Log) -> None:
    with pytest.raises(AccessDenied, match="researchkit witness trust FOLDER researchkit/ledger/"):
        Log(LEAVES).submit(witness.client(), 5)
    thief = Log(LEAVES)
    thief.origin = log.origin
    with pytest.raises(AccessDenied, match="does not know this ledger or its key"):
        thief.submit(witness.client(), 5)
    assert witness.client().latest(log.origin) is None


def together(work: Sequence[Callable[[], object]]) -> list[object]:
    """Do everything at once; what came out, or the error."""
    gate = threading.Barrier(len(work))
    out: list[object] = [None] * len(work)

    def one(i: int) -> None:
        gate.wait()
        try:
            out[i] = work[i]()
        except (IntegrityError, WorkspaceError) as e:
            out[i] = e

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def test_eight_who_submit_at_once_make_one_history(witness: WitnessServer, log: Log) -> None:
    forged = log.rewritten()
    logs = [log, forged] * 4

    def grow(who: Log, start: int) -> None:
        """Hand in five heads, one after the other."""
        for size in range(start, start + 50, 10):
            who.submit(witness.client(), size)

    together([partial(grow, who, 10 + i) for i, who in enumerate(logs)])
    rows = witness.memory()
    final = read_checkpoint(split_note(rows.latest(log.origin) or "")[0])
    winner = next(who for who in (log, forged) if who.tree.root(final.size) == final.root)
    with rows._db.connect() as db:
        heads = db.exec_driver_sql("SELECT size, root FROM heads WHERE origin = ?", (log.origin,)).all()
    assert heads
    assert all(root == winner.tree.root(size) for size, root in heads)


def test_a_cosignature_is_never_older_than_what_it_takes_back(witness: WitnessServer, log: Log) -> None:
    """The race of the protocol's own text: both proofs hold, the shorter one is stored last."""
    log.submit(witness.client(), 10)
    for size in range(20, 120, 20):
        notes = [(log.note(n), log.tree.consistency(size - 10, n)) for n in (size, size + 10)]
        together([partial(witness.memory().add, size - 10, proof, note) for note, proof in notes])
        if seen(witness, log) == size:
            log.submit(witness.client(), size + 10)
        assert seen(witness, log) == size + 10


@pytest.fixture
def own(tmp_path: Path, authority: Authority) -> Iterator[tuple[WitnessServer, Log]]:
    """A witness for one test that may end badly, and a log at ten leaves."""
    server, log = WitnessServer(tmp_path, authority), Log(LEAVES)
    server.trust(log.origin, log.signer.public_hex)
    assert server.memory().add(0, [], log.note(10)).status == 200
    yield server, log
    if server._process is not None and server._process.poll() is None:
        server.stop()


@pytest.mark.parametrize(("instant", "size"), [("before", 10), ("after", 30)])
def test_killed_between_write_and_answer(
    own: tuple[WitnessServer, Log], tmp_path: Path, instant: str, size: int
) -> None:
    server, log = own
    kill = {"RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"), "RESEARCHKIT_KILL_AT": f"witness:{instant}:1"}
    server.start(kill)
    with pytest.raises(WorkspaceError, match="cannot be reached"):
        log.submit(server.client(), 30)
    assert server.wait() == -signal.SIGKILL
    assert seen(server.start(), log) == size  # no signature was given for what is forgotten
    with pytest.raises(IntegrityError):
        log.rewritten().submit(server.client(), 30)
    assert check_cosignature(log.submit(server.client(), 30), server.name, server.key) is not None
    assert server.stop() == 0


def test_a_full_disk_signs_nothing(own: tuple[WitnessServer, Log]) -> None:
    server, log = own
    server.start(most=48 << 10)
    signed, words = 10, ""
    for size in range(11, 60):
        try:
            log.submit(server.client(), size)
            signed = size
        except WorkspaceError as e:
            words = str(e)
            break
    assert "answers 503: the witness cannot remember now and signs nothing" in words
    server.stop()
    assert seen(server.start(), log) == signed
    log.submit(server.client(), signed + 1)


def test_whom_the_client_believes(witness: WitnessServer, log: Log, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is not trusted"):
        WitnessClient(witness.address, Authority(tmp_path, "others").ca).latest(log.origin)
    nope = tmp_path / "nope.pem"
    with pytest.raises(WorkspaceError, match=rf"the file that \?ca= names is not there: {nope}"):
        WitnessClient(witness.address, nope).latest(log.origin)
    nope.write_text("no certificate")
    with pytest.raises(WorkspaceError, match=r"nope.pem, which \?ca= names, is no certificate"):
        WitnessClient(witness.address, nope).latest(log.origin)
    other = WitnessClient(witness.address, witness.ca, key=log.signer.public_hex)
    with pytest.raises(IntegrityError, match="answered without the signature of its key"):
        log.submit(other, 5)
    with pytest.raises(IntegrityError, match="answered without the signature of its key"):
        WitnessClient(witness.address, witness.ca, name="another").latest(log.origin)


def test_no_proxy_is_asked(witness: WitnessServer, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert witness.client().latest(log.origin) is None


def ask(witness: WitnessServer, method: str, path: str, body: bytes | None = None) -> tuple[int, str, str]:
    """A request by hand: status, content type, text."""
    tls = ssl.create_default_context(cafile=str(witness.ca))
    line = http.client.HTTPSConnection("127.0.0.1", witness.port, context=tls, timeout=10)
    try:
        line.request(method, path, body)
        reply = line.getresponse()
        return reply.status, reply.headers["Content-Type"], reply.read().decode()
    finally:
        line.close()


def test_the_protocol_by_hand(witness: WitnessServer, log: Log) -> None:
    assert ask(witness, "GET", "/healthz")[:1] == (200,)
    status, kind, text = ask(witness, "POST", "/add-checkpoint", request_of(5, [b"x" * 32], log.note(9)))
    assert (status, kind, text) == (409, "text/x.tlog.size", "0\n")
    status, _, text = ask(witness, "POST", "/add-checkpoint", request_of(0, [], log.note(9)))
    assert status == 200
    assert text.startswith(f"— {witness.name} ")
    assert text.endswith("\n")
    assert ask(witness, "POST", "/add-checkpoint", request_of(0, [], log.note(9)))[::2] == (409, "9\n")
    wrong = request_of(9, [b"x" * 32] * 3, log.note(12))
    assert ask(witness, "POST", "/add-checkpoint", wrong)[0] == 422
    assert ask(witness, "POST", "/add-checkpoint", b"old 09\n\n" + log.note(9).encode())[0] == 400
    assert ask(witness, "POST", "/add-checkpoint", b"\xff\n\n")[0] == 400
    assert ask(witness, "GET", "/add-checkpoint")[0] == 405
    assert ask(witness, "GET", "/checkpoint?origin=unknown")[0] == 404
    assert ask(witness, "GET", "/elsewhere")[0] == 404


def test_a_flood_is_cut_off(witness: WitnessServer, log: Log) -> None:
    try:
        status, *_ = ask(witness, "POST", "/add-checkpoint", b"x" * (MOST_BYTES + 1))
    except OSError:
        status = 400  # the connection was closed while we were still sending
    assert status in (400, 413)
    bare = http.client.HTTPConnection("127.0.0.1", witness.port, timeout=10)
    bare.request("GET", "/healthz")
    with pytest.raises((OSError, http.client.HTTPException)):  # no TLS, no answer
        bare.getresponse()
    bare.close()
    assert ask(witness, "GET", "/healthz")[0] == 200
