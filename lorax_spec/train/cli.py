"""``lorax-spec train``: the options, and nothing that needs torch before a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lorax_spec.errors import LoraxSpecError

app = typer.Typer(help="Train what the server serves.", no_args_is_help=True)

INTERRUPTED = 130


@app.callback()
def group() -> None:
    """Train what the server serves."""


@app.command()
def medusa(
    data: Annotated[
        list[Path],
        typer.Option(
            help="Text file, folder of them, or JSONL (text | prompt+completion | messages)."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Adapter folder to write.")],
    model_id: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base; default: the embedded model.")
    ] = None,
    lora: Annotated[Path | None, typer.Option(help="PEFT folder to apply to the base.")] = None,
    joint: Annotated[
        bool, typer.Option(help="Put the LoRA into the output folder too: one joint adapter.")
    ] = False,
    num_heads: Annotated[int, typer.Option(min=1, max=16)] = 4,
    own_lm_head: Annotated[
        bool, typer.Option(help="Give each head an lm head of its own (layout v1).")
    ] = False,
    hydra: Annotated[
        bool, typer.Option(help="Heads that read the drafted tokens too: Hydra heads.")
    ] = False,
    inner_size: Annotated[
        int | None, typer.Option(min=1, help="Of Hydra heads; default: twice the hidden size.")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Heads to start from; Hydra heads may start from Medusa's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates to make.")] = None,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens to learn from, where no steps are given.")
    ] = 2_000_000,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    sequence_length: Annotated[int, typer.Option(min=8)] = 512,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 2e-3,
    seed: int = 0,
    soft_labels: Annotated[
        bool, typer.Option(help="Learn the model's own distribution instead of the text's tokens.")
    ] = False,
    self_distill: Annotated[
        bool,
        typer.Option(help="First let the model write the text itself, from the data's prompts."),
    ] = False,
    distill_tokens: Annotated[int, typer.Option(min=1, help="How much it writes.")] = 500_000,
    distill_temperature: Annotated[float, typer.Option(min=0.0)] = 0.7,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    checkpoint_every: Annotated[int, typer.Option(min=0, help="Steps; 0: only on Ctrl-C.")] = 200,
    eval_every: Annotated[int, typer.Option(min=0, help="Steps; 0: only at the end.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the output's checkpoint.")] = False,
) -> None:
    """Train Medusa or Hydra heads on a frozen model, with or without a LoRA."""
    from lorax_spec.train.loop import Plan
    from lorax_spec.train.run import Distillation, Options, run

    plan = Plan(
        steps=steps or max(1, tokens // (batch_size * sequence_length)),
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        seed=seed,
        soft_labels=soft_labels,
    )
    options = Options(
        data=tuple(data),
        output=output,
        plan=plan,
        model_id=model_id,
        lora=lora,
        num_heads=num_heads,
        own_lm_head=own_lm_head,
        hydra=hydra,
        inner_size=inner_size,
        joint=joint,
        init_from=init_from,
        distillation=(
            Distillation(distill_tokens, temperature=distill_temperature) if self_distill else None
        ),
        dtype=dtype,
        device=device,
        checkpoint_every=checkpoint_every,
        eval_every=eval_every,
        resume=resume,
    )
    console = Console()
    try:
        run(options, console)
    except KeyboardInterrupt:
        saved = f"; {options.checkpoint} is kept, --resume goes on" * options.checkpoint.exists()
        console.print(f"stopped{saved}")
        raise typer.Exit(INTERRUPTED) from None
    except LoraxSpecError as error:
        console.print(f"[red]{error.message}[/red]")
        raise typer.Exit(2) from None


@app.command()
def calibrate(
    adapter: Annotated[Path, typer.Option(help="Folder of Medusa or Hydra heads.")],
    data: Annotated[
        list[Path],
        typer.Option(
            help="Text file, folder of them, or JSONL (text | prompt+completion | messages)."
        ),
    ],
    lora: Annotated[Path | None, typer.Option(help="PEFT folder to apply to the base.")] = None,
    model_id: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base; default: the embedded model.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many outputs to measure on.")] = 64,
    seed: int = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
) -> None:
    """Measure what heads' guesses are worth; writes calibration.json into their folder."""
    from lorax_spec.train.run import calibrate_folder

    console = Console()
    try:
        calibrate_folder(
            adapter,
            tuple(data),
            console,
            lora=lora,
            model_id=model_id,
            count=prompts,
            seed=seed,
            dtype=dtype,
            device=device,
        )
    except LoraxSpecError as error:
        console.print(f"[red]{error.message}[/red]")
        raise typer.Exit(2) from None
