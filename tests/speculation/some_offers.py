"""Offers for property tests, and how to look at them."""

from __future__ import annotations

from hypothesis import strategies as st

from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import ROOT


@st.composite
def offers(draw: st.DrawFn, most: int = 8, drafter: str = "") -> Offer:
    """Siblings differ, and are worth at most 1 together."""
    name = drafter or draw(st.sampled_from(["a", "b", "c"]))
    tokens: list[int] = []
    parents: list[int] = []
    left: dict[int, float] = {}
    probabilities: list[float] = []
    for node in range(draw(st.integers(0, most))):
        parent = draw(st.integers(ROOT, node - 1))
        siblings = {t for t, p in zip(tokens, parents, strict=True) if p == parent}
        tokens.append(draw(st.integers(0, 9).filter(lambda token, s=siblings: token not in s)))
        parents.append(parent)
        share = draw(st.floats(0.05, 0.95)) * left.get(parent, 1.0)
        left[parent] = left.get(parent, 1.0) - share
        probabilities.append(share)
    return Offer(tuple(tokens), tuple(parents), tuple(probabilities), (name,) * len(tokens))


def paths(offer: Offer) -> dict[tuple[int, ...], tuple[float, str]]:
    """Every node's probability and drafter, by the tokens that lead to it."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(offer.tokens, offer.parents, strict=True):
        found.append((token,) if parent == ROOT else (*found[parent], token))
    assert len(set(found)) == len(found), "siblings differ"
    return dict(zip(found, zip(offer.probabilities, offer.drafters, strict=True), strict=True))
