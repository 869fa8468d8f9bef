"""What tells drafters how to use heads: calibrations and static trees, read or refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.adapters import choices
from lorax_spec.adapters.calibration import HeadCalibration
from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.inspect import inspect
from lorax_spec.speculation.coupling import head_constants
from tests.adapters.rig import Rig
from tests.adapters.test_refusals import assert_refused
from tests.adapters.writers import (
    SHAPE,
    calibration,
    hydra_config,
    medusa_config,
    medusa_tensors,
    write_hydra,
    write_lora,
    write_medusa,
)

TREE = [[1], [0], [0, 0], [0, 3]]
FOUND = ((0,), (1,), (0, 0), (0, 3))


def write(folder: Path, kind: str, config: dict[str, Any] | None = None) -> Path:
    """Two heads of either kind."""
    if kind == "medusa":
        return write_medusa(folder, medusa_config(2) | (config or {}), medusa_tensors(2))
    return write_hydra(folder, hydra_config() | (config or {}))


@pytest.mark.parametrize("kind", ["medusa", "hydra"])
@pytest.mark.parametrize("in_config", [False, True])
def test_both_are_read_with_the_heads(tmp_path: Path, kind: str, in_config: bool) -> None:
    folder = write(tmp_path, kind, {"medusa_choices": TREE} if in_config else None)
    if not in_config:
        (folder / "medusa_choices.json").write_text(json.dumps(TREE))
    (folder / "calibration.json").write_text(json.dumps(calibration()))
    weights = read_folder(folder, SHAPE, torch.float32)
    expected = HeadCalibration(
        ((0.5, 0.25, 0.0), (0.5, 0.25, 0.0)), ((0.375,), (0.375,)), (0.75, 0.75), (1.0, 1.0)
    )
    for heads in (weights.heads, weights.to("meta").heads):
        assert heads is not None
        assert heads.calibration == expected and heads.choices == FOUND
    seen = inspect(folder, SHAPE)
    assert (seen.faults, seen.calibrated, seen.choices) == ((), True, 4)


FITTED: dict[str, Any] = {
    "none": [-5, -4.5],
    "sure": {"share": [0.5, 1], "sharpness": [1, 2], "noise": [0, 0.25], "none": [-3, 0]},
    "greedy": {"sharpness": [1, 1], "none": [-3, 3]},
}


def test_the_fit_of_a_calibration_is_read_whole(tmp_path: Path) -> None:
    """So that coupling (speculation/coupling.py) finds it as the file has it."""
    folder = write(tmp_path, "hydra")
    (folder / "calibration.json").write_text(json.dumps(calibration(**FITTED)))
    heads = read_folder(folder, SHAPE, torch.float32).heads
    assert heads is not None and heads.calibration is not None
    found = json.loads(json.dumps(asdict(heads.calibration)))
    assert {name: found[name] for name in FITTED} == FITTED
    assert head_constants(asdict(heads.calibration)) == head_constants(calibration(**FITTED))


@pytest.mark.parametrize("kind", ["medusa", "hydra"])
def test_neither_has_to_be_there(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path, kind, {"medusa_choices": None})
    heads = read_folder(folder, SHAPE, torch.float32).heads
    assert heads is not None and heads.calibration is None and heads.choices is None


def test_a_lora_alone_has_no_use_for_them(tmp_path: Path) -> None:
    folder = write_lora(tmp_path)
    (folder / "calibration.json").write_text("of something else")
    assert read_folder(folder, SHAPE, torch.float32).heads is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("null", "calibration.json is not a JSON object"),
        ("[]", "calibration.json is not a JSON object"),
        ("{", "calibration.json is not JSON"),
        ({}, "accepted is no object of greedy and sampled"),
        (calibration(3), "accepted.greedy is not a list of 2 lists"),
        (calibration(1), "sharpness is not a list of 2 numbers"),
        (calibration(accepted={"greedy": [[0.1]] * 2}), "accepted.sampled is not a list of 2"),
        (
            calibration(accepted={"greedy": [[0.1], []], "sampled": [[0.1]] * 2}),
            r"accepted.greedy\[1\] is not a list of 1 to 10 shares",
        ),
        (
            calibration(accepted={"greedy": [[0.1] * 11] * 2, "sampled": [[0.1]] * 2}),
            r"accepted.greedy\[0\] is not a list of 1 to 10 shares",
        ),
        (
            calibration(accepted={"greedy": [[0.1]] * 2, "sampled": [[0.1], [0.1, 1.01]]}),
            r"accepted.sampled\[1\] has 1.01, which is no share",
        ),
        (calibration(sharpness=[1, -0.1]), "sharpness has -0.1"),
        (calibration(sharpness=[1, True]), "sharpness has True"),
        (calibration(noise=[1, float("nan")]), "noise has nan"),
        (calibration(noise=[1, float("inf")]), "noise has inf"),
        (calibration(noise=[1, 10**400]), "noise has 1000"),
        (calibration(noise=[1, "1"]), "noise has '1'"),
        (calibration(noise={"0": 1}), "noise is not a list of 2 numbers"),
        (calibration(none=[0, 0]), "sure, greedy is missing; none, sure, greedy come together"),
        (calibration(**FITTED | {"none": [0, -1001]}), "none has -1001, no number from -1000"),
        (calibration(**FITTED | {"sure": []}), "sure is no object of share, sharpness, noise"),
        (
            calibration(**FITTED | {"sure": FITTED["sure"] | {"share": [0, 1.5]}}),
            "sure.share has 1.5, no number from 0 to 1",
        ),
        (
            calibration(**FITTED | {"greedy": {"sharpness": [1, 1]}}),
            "greedy.none is not a list of 2 numbers",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["medusa", "hydra"])
def test_broken_calibrations(tmp_path: Path, kind: str, content: Any, why: str) -> None:
    folder = write(tmp_path, kind)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "calibration.json").write_text(text)
    assert_refused(folder, why)


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ([], "medusa_choices is not a list of paths"),
        ({}, "is not a (list of paths|JSON list)"),
        ("mc_sim_7b_63", "is not a (list of paths|JSON list)"),
        ([[]], r"\[\] is not a path of ranks from 0 to 63"),
        ([0], "0 is not a path"),
        ([[0], [64]], r"\[64\] is not a path"),
        ([[0], [-1]], r"\[-1\] is not a path"),
        ([[0], [True]], r"\[True\] is not a path"),
        ([[0], [1.0]], r"\[1.0\] is not a path"),
        ([[0], [0, 0], [0, 0, 0]], r"\[0, 0, 0\] is deeper than 2 heads"),
        ([[0], [1], [0]], r"\[0\] is there twice"),
        ([[0], [1, 0]], r"\[1, 0\] is there without \[1\]"),
        ([[rank] for rank in range(64)], "has 64 nodes; at most 63"),
    ],
)
@pytest.mark.parametrize("in_config", [False, True])
def test_broken_trees(tmp_path: Path, tree: Any, why: str, in_config: bool) -> None:
    folder = write(tmp_path, "hydra", {"medusa_choices": tree} if in_config else None)
    if not in_config:
        (folder / "medusa_choices.json").write_text(json.dumps(tree))
    assert_refused(folder, why)


def test_a_tree_in_two_places_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "medusa", {"medusa_choices": TREE})
    (folder / "medusa_choices.json").write_text(json.dumps(TREE))
    assert_refused(folder, "medusa_choices is in config.json and in medusa_choices.json")


@given(
    st.lists(
        st.lists(st.integers(-1, 65) | st.booleans(), max_size=4) | st.integers() | st.none(),
        max_size=70,
    )
)
def test_what_is_accepted_is_a_tree(content: list[Any]) -> None:
    if not list(choices.faults(content, 3)):
        paths = choices.parse(content)
        assert 0 < len(paths) == len(content) == len(set(paths)) <= 63
        for place, path in enumerate(paths):
            assert 0 < len(path) <= 3 and all(0 <= rank <= 63 for rank in path)
            assert len(path) == 1 or path[:-1] in paths[:place]


@given(st.sets(st.lists(st.integers(0, 63), min_size=1, max_size=4).map(tuple), max_size=15))
def test_every_tree_is_accepted(leaves: set[tuple[int, ...]]) -> None:
    paths = {leaf[:length] for leaf in leaves for length in range(1, len(leaf) + 1)}
    if 0 < len(paths) <= 63:
        content = [list(path) for path in sorted(paths, reverse=True)]
        assert not list(choices.faults(content, 4))
        assert set(choices.parse(content)) == paths


@pytest.mark.parametrize("file", ["calibration.json", "medusa_choices.json"])
def test_a_change_of_them_is_a_new_version(tmp_path: Path, file: str) -> None:
    """They change no output, but drafts, so they are noticed as any change of the folder is."""
    rig = Rig(tmp_path, slots=4)
    folder = write(tmp_path / "hydra", "hydra")
    contents = (
        [calibration(), calibration(noise=[0, 0])] if file == "calibration.json" else [TREE, [[0]]]
    )
    leases = [rig.take("hydra")]
    for content in contents:
        (folder / "new").write_text(json.dumps(content))
        (folder / "new").replace(folder / file)
        leases.append(rig.take("hydra"))
    assert all(lease.ready for lease in leases)
    assert len({lease.weights[0].fingerprint for lease in leases}) == 3
    (folder / file).unlink()
    assert rig.take("hydra").weights[0].fingerprint == leases[0].weights[0].fingerprint
