"""Benchmarks that take a model: ``speculation``, ``auto``, ``never-slower``, ``rival-lookup``."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from lorax_spec.bench.options import Json, Quick, Samples, Seed, run
from lorax_spec.errors import InvalidArgument, LoraxSpecError

Item = TypeVar("Item")


class Dtype(enum.StrEnum):
    """What is computed in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


ModelId = Annotated[
    Path | None, typer.Option(help="Folder of a model, as widen makes; default: the embedded one.")
]
AdapterRoot = Annotated[
    Path | None, typer.Option(help="Folder with that model's heads: medusa/, hydra/.")
]
Computed = Annotated[Dtype, typer.Option("--dtype", help="Default: float32.")]
Output = Annotated[Path | None, typer.Option(help="Folder for plots: PNG, and one HTML page.")]


def never_slower(
    batches: Annotated[
        str, typer.Option(help="Requests at a time, by commas; default: 1,2,4,8,16,32,64.")
    ] = "",
    workloads: Annotated[
        str,
        typer.Option(help="Of rename, edit, write, doc, code, tests, prose, random; default: all."),
    ] = "",
    model_id: ModelId = None,
    adapter_root: AdapterRoot = None,
    dtype: Computed = Dtype.FLOAT32,
    output: Output = None,
    quick: Quick = False,
    samples: Samples = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Speculation on by off over workloads, random text among them, and 1 to 64 requests at once.

    Of the embedded model, or of one that widen made.

        lorax-spec bench never-slower --output figures

        lorax-spec bench never-slower --model-id w/base --adapter-root w/adapters --dtype bfloat16
    """

    def start() -> None:
        from lorax_spec.bench.subject import Subject

        subject = Subject(model_id, adapter_root, dtype.value)
        options = {
            "subject": subject,
            "batches": listed("batches", batches, int),
            "workloads": listed("workloads", workloads, str),
            "output": output,
        }
        run(("never_slower",), quick, samples, seed, json, options)

    _or_say_why(start)


def auto(
    batches: Annotated[str, typer.Option(help="Requests at a time, by commas.")] = "1,8",
    workloads: Annotated[
        str,
        typer.Option(help="Of rename, edit, write, doc, code, tests, prose, mix; default: all."),
    ] = "",
    temperatures: Annotated[str, typer.Option(help="By commas.")] = "0,0.8",
    model_id: ModelId = None,
    adapter_root: AdapterRoot = None,
    dtype: Computed = Dtype.FLOAT32,
    quick: Quick = False,
    samples: Samples = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """auto against every single drafter, on each workload and on their mix.

    Of the embedded model, or of one that widen made.

        lorax-spec bench auto --workloads mix --batches 1
    """

    def start() -> None:
        from lorax_spec.bench.auto import Plan
        from lorax_spec.bench.subject import Subject

        plan = Plan(
            Subject(model_id, adapter_root, dtype.value),
            listed("batches", batches, int),
            listed("workloads", workloads, str),
            listed("temperatures", temperatures, float),
        )
        run(("auto",), quick, samples, seed, json, {"plan": plan})

    _or_say_why(start)


def rival_lookup(
    model_id: ModelId = None,
    adapter_root: AdapterRoot = None,
    dtype: Computed = Dtype.FLOAT32,
    quick: Quick = False,
    samples: Samples = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """auto beside transformers' own prompt lookup at its best length, one request at a time.

    Of the embedded model, or of one that widen made.

        lorax-spec bench rival-lookup --model-id w/base --adapter-root w/adapters --dtype bfloat16
    """

    def start() -> None:
        from lorax_spec.bench.subject import Subject

        subject = Subject(model_id, adapter_root, dtype.value)
        run(("rival_lookup",), quick, samples, seed, json, {"subject": subject})

    _or_say_why(start)


def speculation(
    workload: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines of {"prompt", "max_new_tokens"?, "kind"?}; default: embedded prompts '
            "by kind, and random tokens."
        ),
    ] = None,
    drafters: Annotated[
        str, typer.Option(help="Of these, by commas.")
    ] = "off,auto,prompt_lookup,medusa,hydra,draft_model,lookahead",
    batches: Annotated[str, typer.Option(help="Requests at a time, by commas.")] = "1,4,16,64",
    temperatures: Annotated[str, typer.Option(help="By commas.")] = "0,0.8",
    model_id: ModelId = None,
    adapter_root: AdapterRoot = None,
    dtype: Computed = Dtype.FLOAT32,
    output: Output = None,
    quick: Quick = False,
    samples: Samples = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """A workload against drafters and batch sizes: speeds by off, tokens per forward, acceptance.

    Where the draft model is among the drafters, auto has it too.

        lorax-spec bench speculation --output figures

        lorax-spec bench speculation --workload mine.jsonl --drafters auto,medusa --batches 1,8
    """

    def start() -> None:
        from lorax_spec.bench.speculation import Plan
        from lorax_spec.bench.subject import Subject

        plan = Plan(
            Subject(model_id, adapter_root, dtype.value),
            workload,
            listed("drafters", drafters, str),
            listed("batches", batches, int),
            listed("temperatures", temperatures, float),
            output,
        )
        run(("speculation",), quick, samples, seed, json, {"plan": plan})

    _or_say_why(start)


def listed(name: str, text: str, kind: Callable[[str], Item]) -> list[Item]:
    """The items between commas, each once.  Raises InvalidArgument for what is none."""
    try:
        return list(dict.fromkeys(kind(word.strip()) for word in text.split(",") if word.strip()))
    except ValueError:
        raise InvalidArgument(f"--{name}: {text!r} is no list of {kind.__name__}s") from None


def _or_say_why(start: Callable[[], None]) -> None:
    try:
        start()
    except (LoraxSpecError, OSError) as error:
        typer.echo(getattr(error, "message", str(error)), err=True)
        raise typer.Exit(2) from None
