"""The tree against the definitions of RFC 6962, against published vectors, and against hands in its proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.errors import IntegrityError
from researchkit.security.merkle import (
    STORED,
    Frontier,
    Tree,
    check_consistency,
    check_inclusion,
    consistency,
    inclusion,
    leaf_hash,
    node_hash,
    root,
)

# The leaves and results of the reference implementation of Certificate Transparency
# (google/certificate-transparency, merkletree/merkle_tree_test.cc).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {  # (leaf, size): audit path
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
PROOFS = {  # (old, new): consistency proof
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def defined(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(defined(leaves[:k]), defined(leaves[k:]))


def path_defined(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1, as it is written there."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*path_defined(m, leaves[:k]), defined(leaves[k:])]
    return [*path_defined(m - k, leaves[k:]), defined(leaves[:k])]


def subproof_defined(m: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2, as it is written there."""
    if m == len(leaves):
        return [] if whole else [defined(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof_defined(m, leaves[:k], whole=whole), defined(leaves[k:])]
    return [*subproof_defined(m - k, leaves[k:], whole=False), defined(leaves[:k])]


def getter(leaves: Sequence[bytes]) -> Callable[[int, int], bytes]:
    """Perfect trees from a list."""
    return lambda level, index: defined(leaves[index << level : (index + 1) << level])


def numbered(n: int) -> list[bytes]:
    """So many leaves, all different."""
    return [hashlib.sha256(str(i).encode()).digest() for i in range(n)]


def test_published_vectors() -> None:
    get = getter(LEAVES)
    assert [root(LEAVES[:n]).hex() for n in range(1, 9)] == ROOTS
    assert {key: [h.hex() for h in inclusion(*key, get)] for key in PATHS} == PATHS
    assert {key: [h.hex() for h in consistency(*key, get)] for key in PROOFS} == PROOFS
    for (n, size), path in PATHS.items():
        top = bytes.fromhex(ROOTS[size - 1])
        assert check_inclusion(LEAVES[n], n, size, [bytes.fromhex(h) for h in path], top)
    for (old, new), proof in PROOFS.items():
        tops = bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1])
        assert check_consistency(old, new, [bytes.fromhex(h) for h in proof], *tops)


def test_every_proof_up_to_forty_leaves_is_the_one_that_is_defined() -> None:
    leaves = numbered(40)
    get = getter(leaves)
    tops = [defined(leaves[:n]) for n in range(41)]
    edge = Frontier()
    for size in range(41):
        assert edge.root() == tops[size]
        if size < 40:
            edge.add(leaves[size])
        for n in range(size):
            path = inclusion(n, size, get)
            assert path == path_defined(n, leaves[:size])
            assert check_inclusion(leaves[n], n, size, path, tops[size])
        for old in range(1, size + 1):
            proof = consistency(old, size, get)
            assert proof == subproof_defined(old, leaves[:size], whole=True)
            assert check_consistency(old, size, proof, tops[old], tops[size])


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, int]:
    """Two sizes and a place in the smaller tree."""
    new = draw(st.integers(2, 70))
    old = draw(st.integers(1, new - 1))
    return old, new, draw(st.integers(0, old - 1))


@settings(max_examples=150, deadline=None)
@given(histories())
def test_a_changed_history_has_no_proof(case: tuple[int, int, int]) -> None:
    old, new, place = case
    leaves = numbered(new)
    forged = [*leaves[:place], b"forged", *leaves[place + 1 :]]
    for proof in (consistency(old, new, getter(forged)), consistency(old, new, getter(leaves))):
        assert not check_consistency(old, new, proof, defined(leaves[:old]), defined(forged))


@settings(max_examples=150, deadline=None)
@given(histories(), st.data())
def test_a_touched_proof_proves_nothing(case: tuple[int, int, int], data: st.DataObject) -> None:
    old, new, place = case
    leaves = numbered(new)
    before, after = defined(leaves[:old]), defined(leaves)
    whole = consistency(old, new, getter(leaves)), inclusion(place, new, getter(leaves))
    for proof, holds in (
        (whole[0], lambda p: check_consistency(old, new, p, before, after)),
        (whole[1], lambda p: check_inclusion(leaves[place], place, new, p, after)),
    ):
        assert holds(proof)
        at = data.draw(st.integers(0, len(proof) - 1))
        bit = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        touched = [
            [*proof[:at], bit, *proof[at + 1 :]],
            [*proof[:at], *proof[at + 1 :]],
            [*proof[:at], proof[at], *proof[at:]],
            [*proof, proof[at]],
            [*proof[:at], proof[at][:31], *proof[at + 1 :]],
            [*proof[:at], proof[at] + b"\x00", *proof[at + 1 :]],
        ]
        assert not any(holds(p) for p in touched)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-2, 80),
    st.integers(-2, 80),
    st.lists(st.binary(max_size=40), max_size=8),
    st.binary(max_size=40),
    st.binary(max_size=40),
)
def test_checkers_answer_whatever_they_are_given(
    a: int, b: int, proof: list[bytes], one: bytes, two: bytes
) -> None:
    assert check_inclusion(one, a, b, proof, two) is False
    if not (a == b >= 0 and one == two and not proof):
        assert check_consistency(a, b, proof, one, two) is False


class Stored:
    """Leaves and nodes in memory, and a count of what was read."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves, self.nodes, self.read = leaves, dict[tuple[int, int], bytes](), 0
        self.tree = Tree(self.some, lambda *place: self.nodes.get(place), self.keep)

    def some(self, lo: int, hi: int) -> list[bytes]:
        """Leaves, counted."""
        self.read += hi - lo
        return self.leaves[lo:hi]

    def keep(self, nodes: Sequence[tuple[int, int, bytes]]) -> None:
        """New nodes; what is there does not change."""
        for level, index, node in nodes:
            assert self.nodes.setdefault((level, index), node) == node


def test_a_stored_tree_grows_by_what_is_new() -> None:
    leaves = numbered(20_000)
    stored, edge = Stored(leaves), Frontier()
    sizes = [1, 255, 256, 257, 511, 1000, 1024, 5000, 16_383, 16_384, 16_385, 19_999]
    for size in sizes:
        before = stored.read
        while edge.size < size:
            edge.add(leaves[edge.size])
        grown = size - (sizes[sizes.index(size) - 1] if size > 1 else 0)
        assert stored.tree.grow(size) == edge.root()
        assert stored.read - before <= 2 * grown + (1 << STORED) + 255
    assert len(stored.nodes) == sum(19_999 >> level for level in range(STORED, 15))
    again = Stored(leaves)
    again.tree.grow(19_999)
    assert again.nodes == stored.nodes
    stored.read = 0
    for old, new in ((1, 19_999), (255, 256), (256, 19_000), (16_383, 16_385), (5000, 19_999)):
        proof = stored.tree.consistency(old, new)
        assert check_consistency(old, new, proof, root(leaves[:old]), root(leaves[:new]))
        n = old - 1
        assert check_inclusion(leaves[n], n, new, stored.tree.inclusion(n, new), root(leaves[:new]))
    assert stored.read < 5 * 2 * 3 * 256


def test_growing_twice_at_once_does_no_harm() -> None:
    leaves = numbered(3000)
    stored = Stored(leaves)
    seen: list[tuple[int, int, bytes]] = []
    Tree(stored.some, lambda *_: None, seen.extend).grow(3000)  # somebody who saw no nodes yet
    stored.tree.grow(2500)
    stored.keep(seen)
    assert stored.tree.grow(3000) == root(leaves)


@pytest.mark.parametrize("size", [1001, 1281, 1 << 15])
def test_missing_leaves_are_never_signed_over(size: int) -> None:
    stored = Stored(numbered(1000))
    stored.tree.grow(1000)
    with pytest.raises(IntegrityError, match="leaf 1000 of the tree is missing"):
        stored.tree.grow(size)
