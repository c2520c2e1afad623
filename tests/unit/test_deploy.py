"""The container, the compose file and the cluster files: as far as they can be checked without an engine that runs them."""

import json
import re
import shlex
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.test_documents import complaint, stages

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
FILES = [ROOT / "compose.yaml", *sorted((ROOT / "deploy").rglob("*.yaml"))]
KNOWN = {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile and their arguments, without comments and with their lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def faults(text: str, root: Path = ROOT) -> list[str]:
    """What is wrong with a Dockerfile."""
    found, parsed = [], instructions(text)
    found += [f"unknown instruction {word}" for word, _ in parsed if word not in KNOWN]
    stages_known: set[str] = set()
    for word, rest in parsed:
        words = shlex.split(rest) if word in ("FROM", "COPY", "USER") else []
        if word == "FROM":
            if words[0] not in stages_known and not re.search(r":[\w.-]*\d+\.\d+[\w.-]*$|@sha256:", words[0]):
                found.append(f"base without a version: {words[0]}")
            stages_known |= {words[2]} if len(words) == 3 else set()
        if word == "COPY" and not words[0].startswith("--from"):
            found += [f"{source} is not there" for source in words[:-1] if not (root / source).exists()]
    last = parsed[max(i for i, (word, _) in enumerate(parsed) if word == "FROM") :]
    users = [rest for word, rest in last if word == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        found.append("runs as root")
    if not any(word == "HEALTHCHECK" for word, _ in last):
        found.append("no health check")
    for word, rest in parsed:
        if word in ("ARG", "ENV") and re.search(r"(?i)(password|token|secret)\w*=\S", rest):
            found.append(f"a secret in {word}")
        if "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            found.append("lists of packages in a layer")
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves out a file at the top: the last line that fits decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    fitting = [line for line in lines if line.removeprefix("!") in ("*", path)]
    return bool(fitting) and not fitting[-1].startswith("!")


def strings(value: Any) -> Iterator[str]:
    """All texts in a YAML document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from chain.from_iterable(map(strings, value.values()))
    elif isinstance(value, list):
        yield from chain.from_iterable(map(strings, value))


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def commands(path: Path) -> list[list[str]]:
    """What is called of `sfumato` in a file, in its comments too."""
    text = path.read_text(encoding="utf-8")
    said = re.findall(r"(?:^|[\s'])(sfumato (?:batch|serve) [^'\n]*)", text, re.M)
    return [words[1:] for line in said for words in stages(line) if words[0] == "sfumato"]


def test_dockerfile() -> None:
    assert not faults(DOCKERFILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("USER 1000:1000", "USER root", "runs as root"),
        ("HEALTHCHECK ", "CMD ", "no health check"),
        ("python:3.12.12-slim-bookworm\n", "python:slim\n", "base without a version: python:slim"),
        ("COPY src ", "COPY sources ", "sources is not there"),
        ("HF_HOME=/models", "SFUMATO_TOKEN=abc", "a secret in ENV"),
        ("ENTRYPOINT", "ENTRYPONT", "unknown instruction ENTRYPONT"),
    ],
)
def test_faults_of_a_dockerfile_are_found(before: str, after: str, fault: str) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert before in text
    assert fault in faults(text.replace(before, after))


def test_what_is_copied_is_not_ignored() -> None:
    sources = [
        shlex.split(rest) for word, rest in instructions(DOCKERFILE.read_text()) if word == "COPY" and "--from" not in rest
    ]
    assert not [name for words in sources for name in words[:-1] if ignored(name)]
    assert all(map(ignored, (".git", ".env", "out", "tests")))


def test_the_container_calls_what_there_is() -> None:
    parsed = dict(instructions(DOCKERFILE.read_text(encoding="utf-8")))
    program, *words = json.loads(parsed["CMD"])
    assert program == "sfumato"
    assert complaint(words) is None
    extras = re.search(r"/src\[([\w,-]+)\]", DOCKERFILE.read_text(encoding="utf-8"))
    assert extras is not None
    declared = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert not set(extras[1].split(",")) - set(declared)
    assert "/readyz" in parsed["HEALTHCHECK"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_yaml_without_secrets_and_their_commands_exist(path: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(path))
    assert not [problem for words in commands(path) if (problem := complaint(words))]
    text = "\n".join(strings(documents(path)))
    assert not re.search(r"(?i)(password|token|secret)\w*[=:]\s*\w", text), "a secret"


def test_commands_are_found_in_them() -> None:
    found = {path.name: [words[0] for words in commands(path)] for path in FILES}
    assert found == {"compose.yaml": [], "ray-cluster.yaml": ["batch"], "batch.yaml": ["batch"], "serve.yaml": ["serve"]}


def test_compose() -> None:
    (compose,) = documents(ROOT / "compose.yaml")
    server, database = compose["services"]["server"], compose["services"]["database"]
    assert server["environment"]["SFUMATO_DATABASE"].startswith("postgresql://")
    assert server["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert database["healthcheck"]
    assert re.search(r":\d+\.\d+", database["image"])
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    named = {mount.split(":")[0] for service in compose["services"].values() for mount in service["volumes"]}
    assert named == set(compose["volumes"])


def test_clusters_run_the_version_of_ray_that_is_tested() -> None:
    pinned = re.search(r"^ray==([\d.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert pinned is not None
    made = [document["spec"] for name in ("batch", "serve") for document in documents(ROOT / f"deploy/kuberay/{name}.yaml")]
    specs = [spec.get("rayClusterSpec", spec) for spec in made if "selector" not in spec]
    assert {spec["rayVersion"] for spec in specs} == {pinned[1]}
    for spec in specs:
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"]
            mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
