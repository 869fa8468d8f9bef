"""Help teaches, costs nothing, and names every option once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lorax_spec.config import ServeOptions, Side, adapter_roots, arguments, options_of
from tests.cli.processes import ENVIRONMENT, run

COMMANDS = [
    "",
    "serve",
    "router",
    "worker",
    "generate",
    "demo",
    "doctor",
    "adapters",
    "adapters list",
    "adapters load",
    "adapters unload",
    "adapters pin",
    "adapters unpin",
    "adapters inspect",
    "keys",
    "keys new",
    "train",
    "train medusa",
    "bench",
    "bench widen",
    "bench speculation",
    "bench never-slower",
    "bench rival-lookup",
]

_PROBE = """
import sys
from lorax_spec.cli.app import main
sys.argv = ["lorax-spec", *sys.argv[1:], "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print({"torch", "transformers", "tokenizers", "grpc", "numpy"} & set(sys.modules))
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_imports_nothing_heavy(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *command.split()],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", [one for one in COMMANDS if one and "train" not in one])
def test_help_has_an_example(command: str) -> None:
    examples = run(*command.split(), "--help").stdout.split("Usage:")[1].split("\n", 1)[1]
    assert f"lorax-spec {command}" in examples


def test_every_serve_option_is_a_flag_and_a_variable() -> None:
    shown = run("serve", "--help").stdout
    for option in options_of(Side.WORKER | Side.ROUTER | Side.SUPERVISOR):
        assert option.flag in shown
        assert option.variable in shown


def test_a_variable_stands_for_its_flag() -> None:
    done = run("worker", LORAX_SPEC_ADAPTER_ROOT="/nowhere/at/all")
    assert done.returncode == 2
    assert "no folder /nowhere/at/all" in done.stderr


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("serve --num-shard 2", "--num-shard"),
        ("serve --adapter-source s3", "--adapter-url"),
        ("serve --adapter-source hub,ftp", "ftp"),
        ("serve --adapter-cache-bytes 0", "--adapter-cache-bytes"),
        ("serve --dtype int3", "int3"),
        ("serve --port 70000", "--port"),
        ("serve --max-batch-prefill-tokens 0", "--max-batch-prefill-tokens"),
        ("serve --speculative-tokens -1", "--speculative-tokens"),
        ("worker --lookup-min-match 0", "--lookup-min-match"),
        ("worker --lookup-min-match 9 --lookup-max-match 8", "--lookup-max-match"),
        ("serve --adapter-memory-fraction 1.5", "--adapter-memory-fraction"),
        ("serve --draft-model-revision main", "--draft-model-id"),
        ("generate", "--chat"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_is_not_there_is_refused(line: str, named: str) -> None:
    done = run(*line.split())
    assert done.returncode == 2
    assert named in done.stderr and "Traceback" not in done.stderr


def test_children_get_what_serve_was_told() -> None:
    options = ServeOptions(
        model_id="m", deterministic=False, adapter_root=("a", "b=c"), grpc_port=0, json_output=True
    )
    worker, router = arguments(options, Side.WORKER), arguments(options, Side.ROUTER)
    assert " ".join(worker).startswith("--model-id m --dtype auto --device auto")
    assert "--no-eager --no-deterministic" in " ".join(worker)
    assert "--adapter-root a --adapter-root b=c" in " ".join(worker)
    assert "--grpc-port 0" in " ".join(router)
    assert "--model-id" not in router and "--grpc-port" not in worker
    assert "--json-output" in worker and "--json-output" in router


def test_adapter_roots(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain, named = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("named")
    assert adapter_roots((str(plain), f"team={named}")) == {"": plain, "team": named}
    with pytest.raises(ValueError, match="two folders"):
        adapter_roots((str(plain), str(named)))
    with pytest.raises(ValueError, match="no folder"):
        adapter_roots((str(plain / "gone"),))
