"""The verifier alone, on proofs of a real ledger: right ones, every field changed, and files that are no proofs."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from researchkit.context import Context, Principal
from researchkit.errors import NotFound
from researchkit.security import proofs, verifier
from researchkit.security.chain import canonical, link
from researchkit.security.cosigner import Witness
from researchkit.security.ledger import Ledger
from researchkit.security.note import add_signature, read_checkpoint, split_note
from researchkit.security.signing import signer_of

OURS, THEIRS = signer_of(b"\x01" * 32), signer_of(b"\x02" * 32)
WITNESS = f"witness.example={THEIRS.public_hex}"


class Cosigned:
    """A ledger whose checkpoints carry a witness's signature."""

    def __init__(self, ledger: Ledger, witness: Witness) -> None:
        """Have every note of the ledger cosigned."""
        self.ledger, self._notes, old = ledger, list[str](), 0
        for note in ledger.notes():
            size = read_checkpoint(split_note(note)[0]).size
            answer = witness.add(old, ledger.tree().consistency(old, size), note)
            assert answer.status == 200
            self._notes.append(add_signature(note, answer.text))
            old = size
        self.entry, self.tree = ledger.entry, ledger.tree

    def notes(self) -> list[str]:
        """With the witness's lines."""
        return self._notes


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Cosigned:
    """Forty entries, signed and witnessed at 30, 33 and 40."""
    folder, ticks = tmp_path_factory.mktemp("book"), itertools.count(1)
    ledger = Ledger(f"sqlite:///{folder}/ledger.db", OURS, clock=lambda: next(ticks))
    for i in range(1, 41):
        body = {"table": "DEMO/ohlcv-1d", "rows": i, "share": i / 7, "who": "Zoë \u2028 \x00 🜂"}
        ledger.append("read", body, Context(Principal("quant7", ("quant",))), subject=f"run:{i % 3}")
        if i in (30, 33, 40):
            ledger.checkpoint()
    trust = {"researchkit/ledger/" + OURS.public_hex[:16]: [OURS.public_hex]}
    return Cosigned(ledger, Witness(folder / "witness.db", "witness.example", THEIRS, lambda: trust))


def run(path: Path, content: str | bytes, *more: str) -> tuple[int, list[str]]:
    """What the verifier says of a file."""
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    out = io.StringIO()
    code = verifier.main([str(path), "--key", OURS.public_hex, *(more or ("--witness", WITNESS))], out)
    return code, out.getvalue().splitlines()


def test_every_entry_and_every_range_holds(book: Cosigned, tmp_path: Path) -> None:
    for seq in range(1, 41):
        proof = proofs.export(book, seq)
        code, words = run(tmp_path / "proof", json.dumps(proof, indent=1))
        assert code == 0, words
        assert [line[:5] for line in words] == ["ok   "] * 3
        assert len(proof["beside"]) <= 6
    for i, (first, last) in enumerate([(1, 40), (1, 1), (40, 40), (2, 39), (30, 31), (7, 33), (1, 30)]):
        path = tmp_path / f"range-{i}.jsonl"
        assert proofs.export_range(book, path, first, last) == last - first + 1
        assert run(tmp_path / "copy", path.read_bytes())[0] == 0
    with pytest.raises(NotFound, match="entry 41 lies under no checkpoint yet"):
        proofs.export(book, 41)


def test_it_runs_with_nothing_of_ours(book: Cosigned, tmp_path: Path) -> None:
    """No site packages, no environment, only the standard library and `cryptography` beside the file."""
    shutil.copy(verifier.__file__, tmp_path / "verifier.py")
    (tmp_path / "libraries").mkdir()
    for name in ("cryptography", "_cffi_backend", "cffi"):
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            place = Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
            (tmp_path / "libraries" / place.name).symlink_to(place)
    (tmp_path / "proof.json").write_text(json.dumps(proofs.export(book, 17)))
    start = (
        "import runpy, sys; sys.path.append('libraries'); sys.argv = sys.argv[1:];"
        "sys.addaudithook(lambda e, a: sys.exit('network') if e.startswith('socket') else None);"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    asked = ["verifier.py", "proof.json", "--key", OURS.public_hex, "--witness", WITNESS]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, *asked],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok    entry 17: every field is what was hashed")
    source = Path(verifier.__file__).read_text()
    assert "researchkit.security" not in source
    assert len(source.splitlines()) < 300


def changed(value: Any) -> Iterator[Any]:
    """Everything that a field could be instead."""
    yield from (None, True, [], {}, "", 1.0, -1, 0, 10**30)
    match value:
        case str():
            yield from (
                value + "x",
                value + "\n",
                value[:-1],
                value.upper(),
                value + "\x00",
                value + "\ud800",
            )
            yield from (value[:i] + chr(ord(value[i]) ^ 1) + value[i + 1 :] for i in range(0, len(value), 3))
        case int():
            yield from (value + 1, value - 1, float(value), str(value))
        case list():
            yield from (value[1:], value[:-1], [*value, *value[-1:]], value[::-1])
            yield from (
                [*value[:i], new, *value[i + 1 :]] for i in range(len(value)) for new in changed(value[i])
            )
        case dict():
            yield value | {"more": 1}
            for key in value:
                yield {k: v for k, v in value.items() if k != key}
                yield from (value | {key: new} for new in changed(value[key]))


def test_every_change_of_every_field_is_seen(book: Cosigned, tmp_path: Path) -> None:
    proof, tried = proofs.export(book, 17), 0
    for wrong in changed(proof):
        if wrong == proof and canonical(wrong) == canonical(proof):
            continue
        text = json.dumps(wrong)
        code, words = run(tmp_path / "proof", text)
        assert code == 1, (text, words)
        assert any(line.startswith("WRONG") for line in words)
        assert all(line.isascii() and line.isprintable() for line in words)
        tried += 1
    assert tried > 500


def forged(fields: dict[str, Any], **new: Any) -> dict[str, Any]:
    """An entry with other fields and the hash that they give."""
    made = fields | new
    names = ("seq", "ts", "kind", "subject", "body", "context", "prev")
    return made | {"hash": link(*(made[name] for name in names))}


def test_a_consistent_forgery_lies_under_no_checkpoint(book: Cosigned, tmp_path: Path) -> None:
    proof = proofs.export(book, 17)
    entry = proof["entries"][0]
    lies = [
        forged(entry, ts=entry["ts"] + 1),
        forged(entry, kind="verdict"),
        forged(entry, body=canonical({"rows": 0, "subject": entry["subject"]})),
        forged(entry, context=entry["context"].replace("quant7", "quant8")),
        forged(entry, prev="0" * 64),
        forged(entry, seq=18),
        proofs.export(book, 18)["entries"][0],
    ]
    for lie in lies:
        for first in (17, lie["seq"]):
            code, words = run(
                tmp_path / "p", json.dumps(proof | {"first": first, "last": first, "entries": [lie]})
            )
            assert (code, words[0][:5]) == (1, "WRONG")
            assert words[1].startswith("ok")  # the checkpoint itself is genuine
    body = forged(entry, subject="run:9")
    assert "its body says otherwise" in run(tmp_path / "p", json.dumps(proof | {"entries": [body]}))[1][0]


def test_what_a_range_must_not_hide(book: Cosigned, tmp_path: Path) -> None:
    path = tmp_path / "range.jsonl"
    proofs.export_range(book, path, 11, 22)
    head, *lines = path.read_text().splitlines()
    other = tmp_path / "others.jsonl"
    proofs.export_range(book, other, 12, 22)
    cases = {
        "one left out": [head, *lines[:4], *lines[5:]],
        "the first left out": [head, *lines[1:]],
        "the last left out": [head, *lines[:-1]],
        "one twice": [head, *lines[:5], *lines[4:]],
        "two exchanged": [head, *lines[:4], lines[5], lines[4], *lines[6:]],
        "one more": [head, *lines, lines[-1]],
        "another heading": [other.read_text().splitlines()[0], *lines],
        "cut in a line": [head, *lines[:-1], lines[-1][:50]],
        "no heading": lines,
        "empty": [],
        "not an object": ["[]"],
        "too deep": ["[" * 100_000],
    }
    for what, text in cases.items():
        code, words = run(tmp_path / "p", "\n".join([*text, ""]))
        assert (code, words[0][:5]) == (1, "WRONG"), what


def test_keys_are_never_taken_from_the_file(
    book: Cosigned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(proofs.export(book, 3))
    for more, words in (
        (("--witness", f"witness.example={OURS.public_hex}"), "has not signed this checkpoint"),
        (("--witness", f"another={THEIRS.public_hex}"), "witness another has not signed"),
        (("--witness", "witness.example=12"), "64 lower-case hexadecimal digits"),
    ):
        code, said = run(tmp_path / "p", text, *more)
        assert code == 1
        assert words in said[2]
    out = io.StringIO()
    assert verifier.main([str(tmp_path / "p"), "--key", THEIRS.public_hex], out) == 1
    both = ["--key", THEIRS.public_hex, "--key", OURS.public_hex]  # before and after a rotation
    assert verifier.main([str(tmp_path / "p"), *both], out) == 0
    assert out.getvalue().splitlines()[-1].startswith("note  no witness was asked for")
    said = io.StringIO()
    assert verifier.main([str(tmp_path / "nowhere"), *both], said) == 1
    assert verifier.main([str(tmp_path / "p"), "--key", "foo"], said) == 1
    gone, key, note = said.getvalue().splitlines()
    assert (gone[:32], key[:27]) == ("WRONG the file cannot be read: [", "WRONG a hash or key must be")
    assert note.startswith("note  no witness was asked for")
    with pytest.raises(SystemExit):
        verifier.main([str(tmp_path / "p"), *both, "--witness", "foo"], out)
    assert "'foo' must have the form NAME=HEX" in capsys.readouterr().err


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_in_words(book: Cosigned, tmp_path: Path, data: st.DataObject) -> None:
    content = json.dumps(proofs.export(book, 5), ensure_ascii=False).encode()
    at = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(max_size=6))
    cut = data.draw(st.integers(0, 8))
    wrong = content[:at] + junk + content[at + cut :]
    code, words = run(tmp_path / "proof", wrong)
    try:
        same = json.loads(wrong) == json.loads(content)
    except ValueError:
        same = False
    assert same or code == 1
    assert words
