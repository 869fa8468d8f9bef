"""Make the whole bundle from a finished (or running) pre-training.

    python -m lorax_spec.embedded.recipe.build build/embedded --jobs 2 --install

Products that are there already are kept, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path

from lorax_spec import embedded
from lorax_spec.embedded.recipe import card, figures
from lorax_spec.embedded.recipe.calibration import CALIBRATIONS
from lorax_spec.embedded.recipe.export import load_joint
from lorax_spec.embedded.recipe.figures import SUBJECTS
from lorax_spec.embedded.recipe.own_text import OWN_TEXTS
from lorax_spec.embedded.recipe.stages import PRODUCTS, Build, Stage, use_one_thread

SHIPPED = ("base", "adapters", "workloads.json", "MODEL_CARD.md", "NOTICE")

STAGES = (
    PRODUCTS
    | OWN_TEXTS
    | CALIBRATIONS
    | {
        f"figures-{name}": Stage(
            partial(figures.measure, name=name),
            partial(Build.figures, subject=name),
            tuple(f"calibrate-{heads}" for heads in subject.heads),
        )
        for name, subject in SUBJECTS.items()
    }
)


def run_stage(name: str, build: Build) -> float:
    """Run one stage; returns its minutes."""
    started = time.monotonic()
    STAGES[name].run(build)
    return (time.monotonic() - started) / 60


def run_stages(build: Build, jobs: int) -> None:
    """Run what is missing, each stage as soon as those it needs are done, ``jobs`` at a time."""
    done = {name for name, stage in STAGES.items() if stage.product(build).exists()}
    running: dict[Future[float], str] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=use_one_thread) as pool:
        while len(done) < len(STAGES):
            for name, stage in STAGES.items():
                started = name in done or name in running.values()
                if not started and done.issuperset(stage.needs) and len(running) < jobs:
                    print(f"--> {name}", flush=True)
                    running[pool.submit(run_stage, name, build)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                print(f"<-- {name}: {future.result():.1f} min", flush=True)
                done.add(name)


def check_same_state(build: Build) -> None:
    """Refuse to mix products of two states of the pre-training."""
    _, tokens = load_joint(build.source / "joint.pt")
    exported = json.loads(build.provenance.read_text())["tokens"]
    if tokens != exported:
        text = f"{build.output} was made at {exported:,} tokens, joint.pt is at {tokens:,}: remove"
        raise SystemExit(f"{text} its products (all but the pre-training's files) first")


def install(build: Build, target: Path) -> None:
    """Put the bundle where the package finds it, one entry at a time."""
    for name in SHIPPED:
        source, place = build.bundle / name, target / name
        draft = target / f".{name}.part"
        if source.is_dir():
            shutil.copytree(source, draft, dirs_exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
        else:
            shutil.copy(source, draft)
        draft.rename(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of the pre-training")
    parser.add_argument("--output", type=Path, help="where the products go (default: the source)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each stage's tokens")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time, one thread each")
    parser.add_argument("--install", action="store_true", help="copy the bundle into the package")
    arguments = parser.parse_args()
    build = Build(arguments.source, arguments.output or arguments.source, arguments.scale)
    use_one_thread()
    if build.provenance.exists():
        check_same_state(build)
    run_stages(build, arguments.jobs)
    card.write(build, figures.collect(build))
    if arguments.install:
        install(build, embedded.path())


if __name__ == "__main__":
    main()
