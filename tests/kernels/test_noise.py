"""Philox against its published vectors, Gumbel noise against its distribution."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lorax_spec.kernels.noise import gumbel, philox

CPU = torch.device("cpu")


def _words(counter: list[int], key: list[int]) -> list[int]:
    c0, c1, c2, c3 = (torch.tensor([c]) for c in counter)
    k0, k1 = (torch.tensor([k]) for k in key)
    return [int(word) for word in philox((c0, c1, c2, c3), (k0, k1))]


def test_philox_gives_the_words_of_random123() -> None:
    """Known-answer vectors of philox4x32-10 in the Random123 distribution."""
    ones = 0xFFFFFFFF
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert _words([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _words([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    expected = [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    assert _words(pi, [0xA4093822, 0x299F31D0]) == expected


@given(
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**31),
    vocabulary=st.integers(1, 300),
    neighbours=st.lists(st.integers(0, 2**64 - 1), max_size=4),
)
def test_a_rows_noise_is_its_own(
    seed: int, position: int, vocabulary: int, neighbours: list[int]
) -> None:
    alone = gumbel([seed], [position], vocabulary, CPU)
    crowd = (
        gumbel([*neighbours, seed], [*neighbours, position], vocabulary, CPU)
        if all(n < 2**31 for n in neighbours)
        else gumbel([*neighbours, seed], [0] * len(neighbours) + [position], vocabulary, CPU)
    )
    wider = gumbel([seed], [position], vocabulary + 5, CPU)
    assert torch.equal(alone[0], crowd[-1])
    assert torch.equal(alone[0], wider[0, :vocabulary])
    assert alone.isfinite().all()


def test_noise_is_gumbel_distributed() -> None:
    noise = gumbel(list(range(16)), [7] * 16, 4096, CPU).flatten().double().numpy()
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3


def test_seeds_and_positions_give_unrelated_noise() -> None:
    a, b, c = gumbel([1, 2, 1], [5, 5, 6], 4096, CPU)
    for x, y in ((a, b), (a, c), (b, c)):
        assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 0.08
