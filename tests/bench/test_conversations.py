"""Second turns of conversations."""

from lorax_spec import embedded
from lorax_spec.bench.conversations import SECOND_TURN, own_names, second_turns
from lorax_spec.text.tokenizer import TextTokenizer


def test_names_a_function_gives() -> None:
    code = "def f(self, first, last=None):\n    for item in first:\n        total = item\n"
    assert own_names(code) == ["first", "last", "item", "total"]
    assert own_names("total = 1") == own_names("not python (") == own_names("") == []


def test_a_second_turn_quotes_the_first_answer_and_changes_something_else() -> None:
    tokenizer = TextTokenizer.load(embedded.path() / "base")
    workloads = embedded.workloads()
    found = second_turns(workloads, tokenizer)
    assert len(found) > 40
    assert {prompt.kind for prompt in found} == {SECOND_TURN}
    by_prompt = {item["prompt"]: item for item in workloads["rename"] + workloads["edit"]}
    for prompt in found:
        text = tokenizer.decode(list(prompt.ids), skip_special_tokens=False)
        first = next(item for begin, item in by_prompt.items() if text.startswith(begin))
        assert text.count(first["reference"]) == 2
        request = text.rsplit("<|im_start|>user\n", 1)[1].splitlines()[0]
        old = request.split()[1]
        assert old not in first["prompt"].splitlines()[1].split()
        assert old in first["reference"]
