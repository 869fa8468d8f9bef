"""``lorax-spec bench``: one command for each thing that is measured, and all of them."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from lorax_spec.bench.gpu.cli import gpu_check
from lorax_spec.bench.options import Json, Quick, Samples, Seed, run
from lorax_spec.bench.speculation_cli import auto, never_slower, rival_lookup, speculation
from lorax_spec.bench.widening.cli import widen


class _AllByDefault(TyperGroup):
    """``bench`` and ``bench --quick`` mean ``bench all``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["all", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_AllByDefault, add_completion=False)


@app.callback()
def group() -> None:
    """Measure speed, acceptance and memory of the embedded model, beside transformers.

    Everything runs in pairs, in an order drawn by a seed, on one thread, and comes as a ratio with
    its 95 % interval: on a shared machine only those hold. Without a command: all of them, with
    a table of targets last.

        lorax-spec bench --quick

        lorax-spec bench single --json figures.json
    """


@app.command("all")
def everything(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """All of them, and the table of targets."""
    from lorax_spec.bench.suite import BENCHMARKS

    run(BENCHMARKS, quick, samples, seed, json)


@app.command()
def single(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """One request at a time against transformers, without and with prompt lookup."""
    run(("single",), quick, samples, seed, json)


@app.command()
def batch(quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None) -> None:
    """Sixteen requests at once against transformers one by one."""
    run(("batch",), quick, samples, seed, json)


@app.command()
def acceptance(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Tokens per forward pass of every drafter and adapter, on answers that do not loop."""
    run(("acceptance",), quick, samples, seed, json)


@app.command()
def lookup(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Prompt lookup against LoRAX's rule and transformers' own, and what asking it costs."""
    run(("lookup",), quick, samples, seed, json)


@app.command()
def wallclock(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Speculation on against off, in float32 and bfloat16."""
    run(("wallclock",), quick, samples, seed, json)


@app.command()
def coldload(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """What eight streams notice of a cold adapter's load."""
    run(("coldload",), quick, samples, seed, json)


@app.command()
def exchange(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """A thousand adapters for 32 callers, and what others notice of adapters that do not come."""
    run(("exchange",), quick, samples, seed, json)


@app.command()
def memory(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Resident memory of an idle server."""
    run(("memory",), quick, samples, seed, json)


@app.command()
def http(quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None) -> None:
    """HTTP beside gRPC: between tokens, in the router's processor time, with 500 streams."""
    run(("http",), quick, samples, seed, json)


@app.command()
def peers(quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None) -> None:
    """Beside transformers, llama.cpp and OpenVINO GenAI, where they are installed."""
    run(("peers",), quick, samples, seed, json)


@app.command()
def trees(quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None) -> None:
    """The best-first tree against a chain and the best static tree of its size."""
    run(("trees",), quick, samples, seed, json)


@app.command()
def coupled(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Candidates ranked with the position's noise against ranking without, when sampling."""
    run(("coupled",), quick, samples, seed, json)


@app.command()
def merged(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Heads and prompt lookup in one tree against each of them alone."""
    run(("merged",), quick, samples, seed, json)


@app.command()
def drafters(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Tokens per forward pass of the draft model and of lookahead."""
    run(("drafters",), quick, samples, seed, json)


app.command("auto")(auto)
app.command("never-slower")(never_slower)
app.command("rival-lookup")(rival_lookup)
app.command()(speculation)
app.command()(widen)
app.command("gpu-check")(gpu_check)
