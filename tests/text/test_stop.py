"""Stop strings cut exactly, however text and tokens are divided."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.text.stop import StopStrings

LETTERS = "ab"
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=4)
TOKENS = st.lists(st.text(LETTERS, max_size=4), max_size=30)


def run(tokens: list[str], stops: list[str]) -> tuple[list[tuple[int, str]], bool]:
    matcher: StopStrings[int] = StopStrings(stops)
    released: list[tuple[int, str]] = []
    for index, token in enumerate(tokens):
        released += matcher.push(index, token)
        if matcher.matched:
            return released, True
    return released + matcher.flush(), False


def first_end(text: str, stops: list[str]) -> tuple[int, int] | None:
    """Where the first complete stop string ends, and where the longest such one begins."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return end, end - max(lengths)
    return None


@given(TOKENS, STOPS)
def test_cuts_where_the_first_stop_string_begins(tokens: list[str], stops: list[str]) -> None:
    released, matched = run(tokens, stops)
    text = "".join(tokens)
    found = first_end(text, stops)
    assert matched == (found is not None)
    assert "".join(part for _, part in released) == (text if found is None else text[: found[1]])
    assert [index for index, _ in released] == list(range(len(released)))
    if found is None:
        assert len(released) == len(tokens)
    else:
        assert len("".join(tokens[: len(released) - 1])) < found[0]
        assert len("".join(tokens[: len(released)])) >= found[0]


@given(TOKENS, STOPS)
def test_text_does_not_depend_on_the_tokens(tokens: list[str], stops: list[str]) -> None:
    whole = "".join(tokens)
    texts = {
        "".join(part for _, part in run(division, stops)[0])
        for division in (tokens, list(whole), [whole])
    }
    assert len(texts) == 1


@given(TOKENS, STOPS)
def test_holds_back_what_may_begin_a_stop_string_and_nothing_else(
    tokens: list[str], stops: list[str]
) -> None:
    matcher: StopStrings[int] = StopStrings(stops)
    shown = ""
    seen = ""
    count = 0
    for index, token in enumerate(tokens):
        released = matcher.push(index, token)
        seen += token
        shown += "".join(part for _, part in released)
        count += len(released)
        if matcher.matched:
            return
        undecided = max(
            (n for stop in stops for n in range(len(stop)) if seen.endswith(stop[:n])), default=0
        )
        assert len(shown) <= len(seen) - undecided
        certain = [n for n in range(index + 2) if len("".join(tokens[:n])) <= len(seen) - undecided]
        assert count == max(certain)


def test_a_stop_string_ends_inside_a_token() -> None:
    assert run(["x = 1", "\n\nd", "ef"], ["\n\n"]) == ([(0, "x = 1"), (1, "")], True)
