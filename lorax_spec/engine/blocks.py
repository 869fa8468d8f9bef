"""Blocks of KV cache: who holds which, and which can be shared.

A full block is known by the chain of everything before it: the identity of what shaped its keys
and values (the LoRA, if any) and all token ids up to its end.  A sequence that begins the same way
takes such blocks instead of computing them anew.  Freed blocks keep their content until they are
needed for something else, those unused for longest first, and only when no other block is free.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from lorax_spec.kernels.kv_cache import BLOCK_SIZE

#: Never handed out: padding rows write here.
NULL_BLOCK = 0


class BlockPool:
    """Counts references to ``blocks`` blocks and remembers the content of full ones."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks - 1
        self._references = [0] * blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        #: Free blocks whose content nobody can ask for; the last is taken first.
        self._blank = list(range(blocks - 1, 0, -1))
        #: Free blocks of known content, unused for longest first.
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        return len(self._blank) + len(self._cached)

    def take(self, count: int) -> list[int] | None:
        """``count`` blocks of unknown content, or None if there are not as many."""
        if count > self.free:
            return None
        taken = [self._blank.pop() if self._blank else self._evict() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        return taken

    def match(self, hashes: Sequence[bytes]) -> list[int]:
        """Blocks that hold the longest known prefix of ``hashes``; each gains a reference."""
        matched: list[int] = []
        for digest in hashes:
            block = self._block_of.get(digest)
            if block is None:
                break
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1
            matched.append(block)
        return matched

    def publish(self, block: int, digest: bytes) -> None:
        """Say what a full block holds; the first block of a content is the one to be shared."""
        if digest not in self._block_of and block not in self._hash_of:
            self._hash_of[block] = digest
            self._block_of[digest] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference each; the end of a sequence is forgotten before its beginning."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._hash_of:
                    self._cached[block] = None
                else:
                    self._blank.append(block)

    def forget(self) -> None:
        """Forget every content: nothing that was computed so far is shared from now on."""
        self._blank += self._cached
        self._cached.clear()
        self._hash_of.clear()
        self._block_of.clear()

    def check_integrity(self, held: Sequence[Sequence[int]]) -> None:
        """Raise RuntimeError unless the blocks of ``held`` account for every reference."""
        counts = [0] * len(self._references)
        for blocks in held:
            for block in blocks:
                counts[block] += 1
        wrong = [b for b, n in enumerate(counts) if n != self._references[b]]
        free = {b for b, n in enumerate(counts) if n == 0 and b != NULL_BLOCK}
        known = {*self._blank, *self._cached}
        if wrong or free != known:
            raise RuntimeError(f"block references out of balance: {wrong or free ^ known}")

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        del self._block_of[self._hash_of.pop(block)]
        return block


def block_hashes(tokens: Sequence[int], identity: str, known: list[bytes]) -> list[bytes]:
    """Hashes of all full blocks of ``tokens``; ``known`` holds those of its beginning."""
    hashes = list(known)
    parent = hashes[-1] if hashes else identity.encode()
    for start in range(len(hashes) * BLOCK_SIZE, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
        content = b",".join(b"%d" % token for token in tokens[start : start + BLOCK_SIZE])
        parent = hashlib.blake2b(parent + b"|" + content, digest_size=16).digest()
        hashes.append(parent)
    return hashes


def blocks_for(tokens: int) -> int:
    """How many blocks hold ``tokens`` tokens."""
    return -(-tokens // BLOCK_SIZE)
