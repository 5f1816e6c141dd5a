"""Signed notes: what is believed, what is skipped, and what condemns a note, whatever is done to its text."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.errors import IntegrityError
from researchkit.security.note import (
    Checkpoint,
    add_signature,
    check_cosignature,
    cosign,
    key_id,
    open_checkpoint,
    open_note,
    origin_of,
    read_checkpoint,
    sign_note,
    split_note,
)
from researchkit.security.signing import signer_of

OURS, OLD, WITNESS = (signer_of(bytes([i]) * 32) for i in (1, 2, 3))
ORIGIN = origin_of(OLD.public_hex)
MARK = Checkpoint(ORIGIN, 40, b"\x07" * 32)
NOTE = add_signature(
    sign_note(MARK.text, ORIGIN, OURS), cosign(MARK.text, "witness.example", WITNESS, 1_700_000_000)
)
TRUST = {ORIGIN: [OLD.public_hex, OURS.public_hex]}

# The example of C2SP tlog-cosignature: the format, with keys that are nobody's.
EXAMPLE = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""


def test_the_example_of_the_format_is_read() -> None:
    text, (log, witness) = split_note(EXAMPLE)
    assert read_checkpoint(text).size == 20852163
    assert (log.name, log.mark.hex(), len(log.value)) == ("example.com/behind-the-sofa", "033de0ae", 64)
    assert (witness.name, len(witness.value)) == ("witness.example.com/w1", 72)
    assert int.from_bytes(witness.value[:8]) == 1679315147  # the time in the same document
    assert f"{text}\n{log.line}{witness.line}" == EXAMPLE
    with pytest.raises(IntegrityError, match="by no key of"):
        open_note(EXAMPLE, {"example.com/behind-the-sofa": OURS.public_hex})


def test_every_character_counts() -> None:
    """A note with one other character is refused, or says the same under a signature that holds."""
    for i, char in enumerate(NOTE):
        for new in (chr(ord(char) ^ 1), "", "\n", char * 2):
            wrong = NOTE[:i] + new + NOTE[i + 1 :]
            if wrong == NOTE:
                continue
            try:
                mark = open_checkpoint(wrong, TRUST)
                when = check_cosignature(wrong, "witness.example", WITNESS.public_hex)
            except IntegrityError:
                continue
            assert mark == MARK
            assert when is None  # the witness's line became that of somebody unknown


def test_a_note_of_a_retired_key_stays_readable() -> None:
    for signer in (OLD, OURS):
        assert open_checkpoint(sign_note(MARK.text, ORIGIN, signer), TRUST) == MARK
    stranger = sign_note(MARK.text, ORIGIN, WITNESS)
    with pytest.raises(IntegrityError, match="by no key of"):
        open_checkpoint(stranger, TRUST)
    assert open_checkpoint(add_signature(NOTE, stranger.splitlines()[-1] + "\n"), TRUST) == MARK


def test_a_false_line_of_a_known_key_condemns_the_note() -> None:
    other = sign_note(Checkpoint(ORIGIN, 41, MARK.root).text, ORIGIN, OLD)
    with pytest.raises(IntegrityError, match=f"the signature of {ORIGIN} does not fit"):
        open_checkpoint(add_signature(NOTE, other.splitlines()[-1] + "\n"), TRUST)


def test_a_signature_of_one_kind_is_not_one_of_another() -> None:
    """A witness that is also a log, under one name and key: neither line can stand for the other."""
    plain = sign_note(MARK.text, ORIGIN, OURS)
    assert check_cosignature(plain, ORIGIN, OURS.public_hex) is None
    value = split_note(plain)[1][0].value
    moved = base64.b64encode(key_id(ORIGIN, OURS.public_hex, 4) + b"\x00" * 8 + value).decode()
    with pytest.raises(IntegrityError, match="the cosignature of witness"):
        check_cosignature(add_signature(plain, f"— {ORIGIN} {moved}\n"), ORIGIN, OURS.public_hex)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_reading_raises_nothing_else(junk: str, size: int, root: bytes) -> None:
    mark = Checkpoint("a/log", size, root)
    assert read_checkpoint(mark.text) == mark
    for text in (junk, f"{junk}\n\n— {junk}\n", f"a/log\n{junk}\n", f"{mark.text}\n— a/log {junk}\n"):
        for read in (read_checkpoint, lambda t: open_note(t, TRUST)):
            with suppress(IntegrityError):
                read(text)
