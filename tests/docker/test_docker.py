"""What can be seen of the images and their surroundings without building them."""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorax_spec.config import Side, options_of

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
#: Without the line breaks.
DOCKERFILE = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
MANUAL = (ROOT / "docs" / "docker.md").read_text()
WORKFLOW = ROOT / ".github" / "workflows" / "publish.yaml"

OPTIONS = options_of(Side.WORKER | Side.ROUTER | Side.SUPERVISOR)
#: Read by ``worker`` alone, and by the entry point.
OTHER_VARIABLES = {"LORAX_SPEC_LISTEN", "LORAX_SPEC_COMMAND"}


class _ComposeLoader(yaml.SafeLoader):
    """Knows the one tag of compose files that we use."""


_ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def document(name: str) -> Any:
    return yaml.load((DOCKER / name).read_text(), _ComposeLoader)


COMPOSE = document("compose.yaml")
SERVER = COMPOSE["services"]["server"]


def image_variables() -> dict[str, str]:
    return dict(re.findall(r"\b([A-Z][A-Z_]+)=(\S+)", " ".join(instructions("ENV"))))


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_every_variable_of_ours_is_an_option() -> None:
    named = {name for name in image_variables() if name.startswith("LORAX_SPEC_")}
    named |= {name for name in SERVER["environment"] if name.startswith("LORAX_SPEC_")}
    named |= set(re.findall(r"LORAX_SPEC_\w+", MANUAL))
    assert {"LORAX_SPEC_PORT", "LORAX_SPEC_SPECULATIVE_TOKENS"} <= named
    assert named - {one.variable for one in OPTIONS} <= OTHER_VARIABLES


def test_every_option_given_to_an_image_in_the_manual_is_one() -> None:
    runs = re.findall(r"^    docker run (.*)$", MANUAL.replace("\\\n", ""), re.MULTILINE)
    given: set[str] = set()
    for run in runs:
        words = shlex.split(run)
        image = next(word for word in words if word.startswith("lorax-spec"))
        given |= {word for word in words[words.index(image) + 1 :] if word.startswith("--")}
    assert {"--model-id", "--speculative-tokens", "--worker"} <= given
    assert given - {one.flag for one in OPTIONS} == {"--worker", "--help"}


def test_ports_are_the_same_everywhere() -> None:
    variables = image_variables()
    http, grpc = variables["LORAX_SPEC_PORT"], variables["LORAX_SPEC_GRPC_PORT"]
    assert (http, grpc) == ("80", "50051")
    assert instructions("EXPOSE") == [f"{http} {grpc}"]
    assert SERVER["ports"] == [f"127.0.0.1:8080:{http}", f"127.0.0.1:{grpc}:{grpc}"]
    assert f"-p 8080:{http} -p {grpc}:{grpc}" in MANUAL
    (scraped,) = document("prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == f"server:{http}"


def test_everything_in_the_compose_file_listens_on_this_machine_alone() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)
    for port in published:
        assert f"localhost:{port.split(':')[1]}" in MANUAL


def test_variables_of_the_compose_file_are_in_the_manual() -> None:
    text = (DOCKER / "compose.yaml").read_text() + (DOCKER / "compose.cpu.yaml").read_text()
    named = set(re.findall(r"\$\{(\w+)", text))
    assert named == {"DATA", "DATA_OWNER", "HF_TOKEN", "IMAGE", "MODEL_ID", "SPECULATIVE_TOKENS"}
    assert all(f"`{name}`" in MANUAL for name in named)


def test_without_a_gpu_the_server_asks_for_none_and_is_built_so() -> None:
    server = document("compose.cpu.yaml")["services"]["server"]
    assert server["deploy"] is None
    (argument,) = server["build"]["args"]
    assert argument in {one.split("=")[0] for one in instructions("ARG")}


def test_files_that_the_compose_file_mounts_are_there_and_meet() -> None:
    mounts = {}
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source, target = volume.removesuffix(":ro").rsplit(":", 1)
            if source.startswith("./"):
                mounts[target] = (DOCKER / source).resolve()
            else:
                assert source == "${DATA:-data}" or source in COMPOSE["volumes"]
    assert all(path.exists() for path in mounts.values())
    (provider,) = document("grafana/provisioning/dashboards/lorax-spec.yaml")["providers"]
    (shown,) = [one for one in mounts if Path(one).parent == Path(provider["options"]["path"])]
    assert "lorax_spec_" in json.dumps(json.loads(mounts[shown].read_text())["panels"])
    environment = COMPOSE["services"]["grafana"]["environment"]
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == shown
    (source,) = document("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    service, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()
    assert f"127.0.0.1:{port}:{port}" in COMPOSE["services"][service]["ports"]


def copied() -> list[str]:
    """What the Dockerfile takes from the source tree."""
    sources = []
    for words in (line.split() for line in instructions("COPY")):
        if not words[0].startswith("--from"):
            sources += words[:-1]
    return sources


def test_all_it_copies_is_there_and_not_ignored_and_nothing_else_is_sent() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert sent == set(copied())
    assert all((ROOT / name).exists() for name in sent)


def test_what_the_package_is_built_of_is_copied() -> None:
    links = [one.readlink().name for one in (ROOT / "lorax_spec").iterdir() if one.is_symlink()]
    assert len(links) == 3
    assert {"pyproject.toml", "README.md", "LICENSE", "lorax_spec", *links} <= set(copied())


def test_the_entry_point_can_be_executed_and_gets_the_signals() -> None:
    """In the exec form the process itself is the first one, not a shell around it."""
    assert (DOCKER / "entrypoint.sh").stat().st_mode & 0o111 == 0o111
    (entrypoint,) = instructions("ENTRYPOINT")
    assert f"COPY docker/entrypoint.sh {json.loads(entrypoint)[0]}" in DOCKERFILE
    assert "\nSHELL" not in DOCKERFILE and "\nCMD" not in DOCKERFILE


def test_neither_image_ends_as_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    users = {
        stage.split()[2]: re.findall(r"^USER (.*)$", stage, re.MULTILINE)[-1:] for stage in stages
    }
    assert users["runtime"] == ["1000:1000"]
    assert users["router"] == []  # as runtime
    assert users["full"] == ["1000:1000"]


def test_the_workflow_builds_both_and_pins_what_it_runs() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    job = workflow["jobs"]["image"]
    targets = [one["target"] for one in job["strategy"]["matrix"]["include"]]
    stages = re.findall(r"^FROM \S+ AS (\w[\w-]*)$", DOCKERFILE, re.MULTILINE)
    assert targets == ["full", "router"]
    assert set(targets) <= set(stages) and stages[-1] == "full"  # the last one is the default
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert len(used) == 5
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one) for one in used)
    assert workflow["permissions"] == {}
    assert workflow[True] == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}  # `on`, in YAML


@pytest.mark.parametrize("name", ["docker/requirements.py", "docker/healthcheck.py", "LICENSE"])
def test_the_ignored_rest_is_what_we_mean(name: str) -> None:
    """``.dockerignore`` ends with patterns that must not take what was let in."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    later = lines[lines.index(f"!{name}") + 1 :]
    assert not any(fnmatch(name, line) for line in later if not line.startswith("!"))
