"""One run of ``lorax-spec train medusa``, from files to an adapter folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lorax_spec.errors import InvalidArgument
from lorax_spec.train import calibrate, kinds, report
from lorax_spec.train.acceptance import Output, acceptance
from lorax_spec.train.base import Base, load_base
from lorax_spec.train.data import Document, TokenStream, prompts, read_documents, split
from lorax_spec.train.distill import continuations
from lorax_spec.train.evaluate import held_out_figures
from lorax_spec.train.heads import MedusaHeads
from lorax_spec.train.hydra import HydraHeads, from_medusa
from lorax_spec.train.kinds import AnyHeads
from lorax_spec.train.loop import HeadTrainer, Plan, train

EVALUATION_PROMPTS = 16
EVALUATION_PROMPT_LENGTH = 128
LORA_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Distillation:
    """How the model writes its own training text."""

    tokens: int
    new_tokens: int = 128
    temperature: float = 0.7
    batch_size: int = 16


@dataclass(frozen=True)
class Options:
    """What a run is made from; the command line's options by the same names."""

    data: tuple[Path, ...]
    output: Path
    plan: Plan
    model_id: str | None = None
    lora: Path | None = None
    num_heads: int = 4
    own_lm_head: bool = False
    hydra: bool = False
    inner_size: int | None = None
    joint: bool = False
    init_from: Path | None = None
    distillation: Distillation | None = None
    dtype: str = "auto"
    device: str = "auto"
    checkpoint_every: int = 200
    eval_every: int = 0
    resume: bool = False

    @property
    def checkpoint(self) -> Path:
        """Beside the output folder, which holds nothing but what is served."""
        return self.output.with_name(self.output.name + ".checkpoint.pt")


def run(options: Options, console: Console) -> None:
    """Train heads and write ``options.output``; tables of held-out figures go to ``console``.

    A KeyboardInterrupt passes through after a checkpoint; ``resume`` goes on from it, and ends
    with the very weights of an uninterrupted run.
    """
    if options.joint and options.lora is None:
        raise InvalidArgument("a joint adapter needs the LoRA it joins", field="lora")
    base = load_base(options.model_id, options.lora, dtype=options.dtype, device=options.device)
    documents = read_documents(options.data, base.tokenizer)
    if not documents:
        raise InvalidArgument("no text in the given files and folders", field="data")
    training, held_out = split(documents, options.plan.seed)
    if options.distillation is not None:
        training = _distilled(base, training, options.distillation, options.plan.seed, console)
    stream, unseen = TokenStream.join(training), TokenStream.join(held_out)
    console.print(f"{len(stream):,} tokens to learn from, {len(unseen):,} held out")

    heads = _first_heads(base, options).to(base.model.device)
    trainer = HeadTrainer(base.model, heads, stream, options.plan)
    if options.resume and options.checkpoint.exists():
        trainer.load(options.checkpoint)
        console.print(f"resumed at step {trainer.step}")

    def evaluate() -> None:
        figures = held_out_figures(base.model, heads, unseen)
        console.print(report.accuracy_table(figures))

    options.output.parent.mkdir(parents=True, exist_ok=True)
    with _progress(console) as progress:
        task = progress.add_task("loss -", total=options.plan.steps, completed=trainer.step)

        def on_step(step: int, losses: list[float]) -> None:
            text = "loss " + " ".join(f"{loss:.3f}" for loss in losses)
            progress.update(task, completed=step, description=text)
            if options.eval_every and step % options.eval_every == 0 and step < options.plan.steps:
                evaluate()

        train(
            trainer,
            on_step=on_step,
            checkpoint=options.checkpoint,
            checkpoint_every=options.checkpoint_every,
        )
    _write(heads, base, options)
    options.checkpoint.unlink(missing_ok=True)
    evaluate()
    starts = prompts(held_out, EVALUATION_PROMPTS, EVALUATION_PROMPT_LENGTH)
    if starts:
        outputs = calibrate.own_outputs(base.model, starts, options.plan.seed)
        for temperature, some in outputs.items():
            found = acceptance(base.model, heads, some)
            console.print(report.acceptance_table(found, temperature))
        _write_calibration(base, heads, outputs, options.output, console)
    console.print(f"wrote {options.output}")


def _first_heads(base: Base, options: Options) -> AnyHeads:
    hidden_size = base.model.config.get_text_config().hidden_size
    found: AnyHeads | None = None
    if options.init_from is not None:
        found = kinds.load(options.init_from, hidden_size, options.num_heads)
    if options.hydra:
        return _first_hydra(found, hidden_size, options)
    heads = found or MedusaHeads(hidden_size, options.num_heads)
    if isinstance(heads, HydraHeads):
        raise InvalidArgument(f"{options.init_from} is Hydra's: add --hydra", field="init_from")
    if options.own_lm_head and heads.lm_heads is None:
        heads.add_lm_heads(base.model.get_output_embeddings().weight)
    if heads.lm_heads is not None and not options.own_lm_head:
        raise InvalidArgument(f"{options.init_from} is v1: add --own-lm-head", field="init_from")
    return heads


def _first_hydra(found: AnyHeads | None, hidden_size: int, options: Options) -> HydraHeads:
    if options.own_lm_head:
        raise InvalidArgument("Hydra heads have no lm heads of their own", field="own_lm_head")
    inner_size = options.inner_size or 2 * hidden_size
    if isinstance(found, MedusaHeads):
        return from_medusa(found, options.num_heads, inner_size)
    if found is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.plan.seed)
            return HydraHeads(hidden_size, options.num_heads, inner_size)
    if options.inner_size not in (None, found.inner_size):
        text = f"{options.init_from} has an inner size of {found.inner_size}"
        raise InvalidArgument(text, field="inner_size")
    return found


def _distilled(
    base: Base, documents: list[Document], plan: Distillation, seed: int, console: Console
) -> list[Document]:
    with _progress(console) as progress:
        task = progress.add_task("the model writes its own text", total=plan.tokens)
        written = continuations(
            base.model,
            documents,
            tokens=plan.tokens,
            new_tokens=plan.new_tokens,
            temperature=plan.temperature,
            batch_size=plan.batch_size,
            seed=seed,
            on_tokens=lambda total: progress.update(task, completed=total),
        )
    if not written:
        raise InvalidArgument("no document is long enough to prompt the model", field="data")
    return written


def _write(heads: AnyHeads, base: Base, options: Options) -> None:
    kinds.save(heads, options.output, base.base_id)
    if options.joint and options.lora is not None:
        for name in LORA_FILES:
            shutil.copy(options.lora / name, options.output / name)


def calibrate_folder(
    adapter: Path,
    data: tuple[Path, ...],
    console: Console,
    *,
    lora: Path | None,
    model_id: str | None,
    count: int,
    seed: int,
    dtype: str,
    device: str,
) -> None:
    """Calibrate heads that are there already, on what the model makes of ``data``'s prompts.

    Raises InvalidArgument where ``data`` has no prompt or ``adapter`` no heads.
    """
    base = load_base(model_id, lora, dtype=dtype, device=device)
    heads = kinds.load(adapter, base.model.config.get_text_config().hidden_size)
    heads = heads.to(base.model.device)
    documents = read_documents(data, base.tokenizer)
    starts = prompts(documents, count, EVALUATION_PROMPT_LENGTH)
    if not starts:
        raise InvalidArgument("no document is long enough to prompt the model", field="data")
    outputs = calibrate.own_outputs(base.model, starts, seed)
    _write_calibration(base, heads, outputs, adapter, console)
    console.print(f"wrote {adapter / calibrate.FILE}")


def _write_calibration(
    base: Base,
    heads: AnyHeads,
    outputs: dict[float, list[Output]],
    folder: Path,
    console: Console,
) -> None:
    content, losses = calibrate.calibration(base.model, heads, outputs)
    calibrate.write(content, folder)
    console.print(report.calibration_table(content, losses))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
