"""``lorax-spec generate``: a prompt, or a conversation, against a running server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorax_spec.cli.connect import DEFAULT_TARGET, Target, connect
from lorax_spec.types import Method

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lorax_spec.client import Client
    from lorax_spec.types import MergedAdapters, Message, Response, StreamResponse

app = typer.Typer(add_completion=False)

_ADAPTER, _SAMPLING, _FORMAT, _SPECULATION = "Adapter", "Sampling", "Format", "Speculation"


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; - reads it from stdin.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="The prompt is a question; without one, hold a conversation."),
    ] = False,
    adapter_id: Annotated[
        str | None, typer.Option(help="Adapter to answer with.", rich_help_panel=_ADAPTER)
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID[=WEIGHT]",
            help="Adapter to merge into the one to answer with, 1 where no weight is given; repeat"
            " it for the others.",
            rich_help_panel=_ADAPTER,
        ),
    ] = None,
    merge_method: Annotated[
        str,
        typer.Option(help="linear, ties, dare_linear or dare_ties.", rich_help_panel=_ADAPTER),
    ] = "linear",
    merge_density: Annotated[
        float | None,
        typer.Option(
            help="Share of each adapter's numbers that ties and dare keep; left out: a half.",
            rich_help_panel=_ADAPTER,
        ),
    ] = None,
    merge_sign_method: Annotated[
        str,
        typer.Option(
            help="Whose sign wins in ties and dare_ties: total or frequency.",
            rich_help_panel=_ADAPTER,
        ),
    ] = "total",
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 200,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0, the default, is greedy.", rich_help_panel=_SAMPLING),
    ] = None,
    top_k: Annotated[int | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    top_p: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    repetition_penalty: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same text.", rich_help_panel=_SAMPLING)
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(
            help="Sample so many answers, show the likeliest; not streamed.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    response_format: Annotated[
        str | None,
        typer.Option(
            help="json_object, json_schema, regex or choice; json_schema where only --schema is"
            " given.",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    schema: Annotated[
        typer.FileText | None,
        typer.Option(
            help="File of the JSON schema, the regex, or the choices, one a line.",
            encoding="utf-8",
            rich_help_panel=_FORMAT,
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="Who guesses ahead.", rich_help_panel=_SPECULATION)
    ] = Method.AUTO,
    num_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to guess a step, branches included; left out: as many as pay.",
            rich_help_panel=_SPECULATION,
        ),
    ] = None,
    medusa_adapter_id: Annotated[
        str | None,
        typer.Option(
            help="Medusa or Hydra heads to guess with, beside the adapter.",
            rich_help_panel=_SPECULATION,
        ),
    ] = None,
    reference: Annotated[
        typer.FileText | None,
        typer.Option(
            help="File to look guesses up in, such as the one that is edited.",
            encoding="utf-8",
            errors="replace",
            rich_help_panel=_SPECULATION,
        ),
    ] = None,
    show_speculation: Annotated[
        bool,
        typer.Option(
            "--show-speculation",
            help="Colour the accepted guesses by who made them, and count them.",
            rich_help_panel=_SPECULATION,
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for the whole answer.")] = 300.0,
) -> None:
    """Continue a text, answer a question, or hold a conversation.

    The server must run (`lorax-spec serve`); the answer streams to stdout.

        lorax-spec generate "def fibonacci(n):" --max-new-tokens 60

        lorax-spec generate --chat "Write the Python function add." --show-speculation

        lorax-spec generate --chat --adapter-id demo/pirate --medusa-adapter-id demo/pirate-medusa

        lorax-spec generate "def add(" --merge demo/pirate=0.7 --merge demo/tests=0.3

        cat module.py | lorax-spec generate - --method prompt_lookup --temperature 0.8 --seed 1

        lorax-spec generate "A person as JSON: " --schema person.json --temperature 0.8 --best-of 3
    """
    from lorax_spec.types import Message, ResponseFormat, Speculation

    merged = _merged(merge or [], merge_method, merge_density, merge_sign_method)
    options: dict[str, Any] = {
        "adapter_id": adapter_id,
        "merged_adapters": merged,
        "max_new_tokens": max_new_tokens,
        "stop": stop,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "best_of": best_of,
        "speculation": Speculation(
            method, num_tokens, medusa_adapter_id, reference.read() if reference else None
        ),
    }
    if response_format or schema:
        text = schema.read().rstrip("\n") if schema else ""
        options["response_format"] = ResponseFormat(response_format or "json_schema", text)
    if prompt is None and not chat:
        raise typer.BadParameter("give a prompt, or --chat for a conversation")
    if prompt == "-":
        prompt = sys.stdin.read()
    with connect(target, timeout=timeout) as client:
        if prompt is not None:
            question = [Message("user", prompt)] if chat else prompt
            _show(_answer(client, question, options), show_speculation)
            return
        conversation: list[Message] = []
        while line := _ask():
            conversation.append(Message("user", line))
            text = _show(_answer(client, conversation, options), show_speculation)
            conversation.append(Message("assistant", text))


def _merged(
    parts: list[str], method: str, density: float | None, sign_method: str
) -> MergedAdapters | None:
    """Ends the command where a weight is no number."""
    from lorax_spec.types import MergedAdapters

    if not parts:
        return None
    ids, weights = [], []
    for part in parts:
        adapter_id, separator, weight = part.rpartition("=")
        try:
            weights.append(float(weight) if separator else 1.0)
        except ValueError:
            raise typer.BadParameter(f"--merge {part}: ID or ID=WEIGHT, a number") from None
        ids.append(adapter_id if separator else part)
    return MergedAdapters(tuple(ids), tuple(weights), method, density, sign_method)


def _ask() -> str:
    """A question; empty where the conversation is over."""
    try:
        return input("> ")
    except EOFError:
        return ""


def _answer(
    client: Client, question: str | list[Message], options: dict[str, Any]
) -> Iterable[StreamResponse]:
    """A text is continued, a conversation answered; the best of several comes all at once."""
    if (options["best_of"] or 1) == 1:
        if isinstance(question, str):
            return client.generate_stream(question, **options)
        return client.chat_stream(question, **options)
    if isinstance(question, str):
        return _events(client.generate(question, **options))
    return _events(client.chat(question, **options))


def _events(response: Response) -> Iterator[StreamResponse]:
    """A whole answer as a stream of it would have been."""
    from lorax_spec.types import StreamResponse

    for token in response.details.tokens:
        yield StreamResponse(token=token)
    yield StreamResponse(None, response.generated_text, response.details)


def _show(events: Iterable[StreamResponse], show_speculation: bool) -> str:
    """Print a stream as it comes; returns the whole text."""
    from rich.console import Console

    from lorax_spec.cli.colours import colour
    from lorax_spec.cli.figures import figures

    console, text = Console(highlight=False), ""
    for event in events:
        if event.token is not None and not event.token.special:
            style = colour(event.token.drafter) if show_speculation else ""
            console.out(event.token.text, style=style, end="", highlight=False)
        if event.details is not None:
            text = event.generated_text or ""
            console.out("")
            if show_speculation:
                Console(stderr=True, highlight=False).print(figures(event.details))
    return text
