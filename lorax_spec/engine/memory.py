"""Keeping freed memory for the next step."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIBIBYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks instead of giving them back at once.

    Attention over long contexts takes and frees megabytes in every layer.  Given back to the
    kernel, each comes with page faults again, which cost more than the attention itself.  Returns
    whether the allocator took it (False on other C libraries).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _GIBIBYTE) and mallopt(_M_TRIM_THRESHOLD, _GIBIBYTE))
