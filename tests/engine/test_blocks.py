"""Blocks of KV cache: references balance, and a shared block holds what its hash says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lorax_spec.engine.blocks import NULL_BLOCK, BlockPool, block_hashes, blocks_for
from lorax_spec.kernels.kv_cache import BLOCK_SIZE

BLOCKS = 9

#: A sequence's content as one letter per full block; few letters, so that beginnings are shared.
words = st.text("ab", min_size=1, max_size=5)


def hashes_of(word: str) -> list[bytes]:
    tokens = [ord(letter) for letter in word for _ in range(BLOCK_SIZE)]
    return block_hashes(tokens, "", [])


class PoolMachine(RuleBasedStateMachine):
    """Sequences come, share, publish and go.

    Beside the pool a plain model of it: ``cache`` is what a device would hold in each block,
    ``shared`` the block of each published content, ``blank`` the free blocks that hold nothing to
    share, the last to be taken first, and ``known`` the other free ones, longest free first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS)
        self.cache: dict[int, str] = {}
        self.shared: dict[str, int] = {}
        self.held: list[tuple[str, list[int]]] = []
        self.blank = list(range(BLOCKS - 1, 0, -1))
        self.known: list[int] = []

    @rule(word=words, spare=st.integers(0, 2))
    def admit(self, word: str, spare: int) -> None:
        """Take what is known, the rest fresh, as the scheduler does."""
        matched = self.pool.match(hashes_of(word))
        for index, block in enumerate(matched):
            assert self.cache[block] == word[: index + 1], "a shared block holds something else"
            if block in self.known:
                self.known.remove(block)
        missing = len(word) + spare - len(matched)
        fresh = self.pool.take(missing)
        free = [*reversed(self.blank), *self.known]
        if missing > len(free):
            assert fresh is None
            self.give_back(matched)
            return
        assert fresh == free[:missing], (
            "those with nothing to share go first, then the longest free"
        )
        self.known = self.known[max(0, missing - len(self.blank)) :]
        self.blank = self.blank[: max(0, len(self.blank) - missing)]
        for block in fresh:
            content = self.cache.pop(block, "")
            if self.shared.get(content) == block:
                del self.shared[content]
        self.held.append((word, matched + fresh))

    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        """A sequence writes its next full block and says so."""
        if not self.held:
            return
        word, blocks = data.draw(st.sampled_from(self.held))
        for index, (block, digest) in enumerate(zip(blocks, hashes_of(word), strict=False)):
            if block not in self.cache:
                content = self.cache[block] = word[: index + 1]
                self.shared.setdefault(content, block)
                self.pool.publish(block, digest)
                break

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.held:
            index = data.draw(st.integers(0, len(self.held) - 1))
            self.give_back(self.held.pop(index)[1])

    @rule(data=st.data(), kept=st.integers(0, 3))
    def shorten(self, data: st.DataObject, kept: int) -> None:
        """Spare blocks at a sequence's end go back early."""
        if self.held:
            _, blocks = data.draw(st.sampled_from(self.held))
            kept += len(blocks) - 3
            if kept > 0:
                spare = blocks[kept:]
                del blocks[kept:]
                self.give_back(spare)

    @rule()
    def forget(self) -> None:
        self.pool.forget()
        self.shared.clear()
        self.blank += self.known
        self.known = []

    def give_back(self, blocks: list[int]) -> None:
        self.pool.release(blocks)
        held = Counter(block for _, own in self.held for block in own)
        for block in reversed(blocks):
            if not held[block]:
                known = block in self.shared.values()
                (self.known if known else self.blank).append(block)

    @invariant()
    def balanced(self) -> None:
        self.pool.check_integrity([blocks for _, blocks in self.held])
        assert self.pool.free == len(self.blank) + len(self.known)
        assert NULL_BLOCK not in {block for _, blocks in self.held for block in blocks}

    @invariant()
    def remembers_all_it_still_has(self) -> None:
        """A published content is found again until its block is taken for something else."""
        for word in list(self.shared):
            expected = []
            for index in range(len(word)):
                if word[: index + 1] not in self.shared:
                    break
                expected.append(self.shared[word[: index + 1]])
            assert self.pool.match(hashes_of(word)) == expected
            self.known = [block for block in self.known if block not in expected]
            self.give_back(expected)


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestPool = PoolMachine.TestCase


def test_a_sequences_end_is_forgotten_before_its_beginning() -> None:
    pool = BlockPool(5)
    blocks = pool.take(4)
    assert blocks is not None
    hashes = hashes_of("abba")
    for block, digest in zip(blocks, hashes, strict=True):
        pool.publish(block, digest)
    pool.release(blocks)
    assert pool.take(1) == [blocks[3]]
    assert pool.match(hashes) == blocks[:3]


def test_a_block_without_content_is_reused_before_any_prefix_is_forgotten() -> None:
    pool = BlockPool(5)
    known, blank = pool.take(2) or [], pool.take(2) or []
    for block, digest in zip(known, hashes_of("ab"), strict=True):
        pool.publish(block, digest)
    pool.release(known)
    pool.release(blank)
    for _ in range(9):
        assert pool.take(2) == blank
        pool.release(blank)
    assert pool.match(hashes_of("ab")) == known


def test_a_use_keeps_a_content_longer() -> None:
    pool = BlockPool(4)
    a, b, c = (pool.take(1) or [] for _ in range(3))
    for blocks, word in ((a, "a"), (b, "b"), (c, "ab")):
        pool.publish(blocks[0], hashes_of(word)[-1])
        pool.release(blocks)
    pool.release(pool.match(hashes_of("a")))
    assert pool.take(2) == [*b, *c]
    assert pool.match(hashes_of("a")) == a


def test_two_sequences_of_one_content_share_the_first_ones_block() -> None:
    pool = BlockPool(4)
    first, second = pool.take(1) or [], pool.take(1) or []
    digest = hashes_of("a")[0]
    pool.publish(first[0], digest)
    pool.publish(second[0], digest)
    assert pool.match([digest]) == first
    pool.check_integrity([first, second, first])


@pytest.mark.parametrize("held", [[], [[1, 2]], [[1], [1]], [[2]]])
def test_the_integrity_check_finds_leaks_and_double_frees(held: list[list[int]]) -> None:
    pool = BlockPool(4)
    assert pool.take(1) == [1]
    pool.check_integrity([[1]])
    with pytest.raises(RuntimeError, match="balance"):
        pool.check_integrity(held)
    pool.release([1])
    pool.check_integrity([])
    pool.release([1])
    with pytest.raises(RuntimeError, match="balance"):
        pool.check_integrity([])


tokens_of = st.lists(st.integers(0, 2), max_size=5 * BLOCK_SIZE)
#: Few enough letters for equal beginnings: each draws one block's tokens.
sentences = st.text("abc", max_size=5).map(
    lambda word: [ord(letter) + i % 2 for letter in word for i in range(BLOCK_SIZE)]
)


@given(a=sentences, b=sentences, one=st.sampled_from(["", "x"]), two=st.sampled_from(["", "x"]))
def test_hashes_are_equal_as_far_as_tokens_and_identity_are(
    a: list[int], b: list[int], one: str, two: str
) -> None:
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    shared = common // BLOCK_SIZE if one == two else 0
    pairs = zip(block_hashes(a, one, []), block_hashes(b, two, []), strict=False)
    assert [x == y for x, y in pairs] == [
        index < shared for index in range(min(len(a), len(b)) // BLOCK_SIZE)
    ]


@given(tokens=tokens_of, cut=st.integers(0, 5 * BLOCK_SIZE))
def test_hashes_grow_with_the_tokens(tokens: list[int], cut: int) -> None:
    known = block_hashes(tokens[:cut], "x", [])
    hashes = block_hashes(tokens, "x", known)
    assert hashes == block_hashes(tokens, "x", [])
    assert len(hashes) == len(tokens) // BLOCK_SIZE
    assert block_hashes(tokens[:cut], "x", hashes) == hashes, "what is known stays known"


@pytest.mark.parametrize(
    ("a", "b"), [([1, 23], [12, 3]), ([1, 2], [2, 1]), ([0, 11], [1, 1]), ([258, 0], [2, 0])]
)
def test_hashes_tell_tokens_apart(a: list[int], b: list[int]) -> None:
    rest = [7] * (BLOCK_SIZE - 2)
    assert block_hashes(a + rest, "", []) != block_hashes(b + rest, "", [])


def test_blocks_for_rounds_up() -> None:
    counts = [0, 1, BLOCK_SIZE, BLOCK_SIZE + 1]
    assert [blocks_for(count) for count in counts] == [0, 1, 1, 2]
