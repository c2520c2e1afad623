"""What the documents say to type can be typed: commands and flags exist, README's commands run, and so do Python's examples."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sfumato import examples
from sfumato.cli.main import app
from tests.server.stub import serving, settings_for
from tests.tiny_models import tiny_sd1

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GENERATED = "docs/api.md"
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md"))
    if path.name != "CHANGELOG.md" and path != ROOT / GENERATED
)
NOT_RUN = {  # what of README's commands is only read, and why
    "--model ~/models/": "needs a checkpoint that is not in the repository",
    "--method repaint": "takes half a minute; tests/unit/test_editor_methods.py runs RePaint in few steps",
    "sfumato bench": "takes minutes; tests/end_to_end/test_bench_end_to_end.py runs a smaller one",
    "sfumato serve": "runs until it is stopped; tests/server/test_serve.py starts and stops it",
    "sfumato train": "takes an hour; tests/unit/test_training_loop.py runs its steps",
    "sfumato demo": "tests/end_to_end/test_cli_end_to_end.py runs it in few steps",
}
STANDS_FOR = {  # in Python's examples: a model that is not in the repository, and a server's address
    "stabilityai/stable-diffusion-xl-base-1.0": "embedded",
    "http://127.0.0.1:7860": "SERVER",
}
OWN_TEST = {"architecture.md", "CONTRIBUTING.md"}  # tests/unit/test_architecture.py runs their examples


def code_blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.S | re.M)


def shell_lines(document: Path) -> list[str]:
    """The lines of its shell blocks; of a command over several lines, the whole."""
    text = "".join(code_blocks(document, "bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def stages(line: str) -> list[list[str]]:
    """The commands of a line of shell, without comments, and without pipes and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>;&")
    lexer.whitespace_split = True
    return [list(words) for operator, words in groupby(lexer, key=lambda word: set(word) <= set("|>;&")) if not operator]


def commands(document: Path) -> Iterator[list[str]]:
    """Every `sfumato ...` of a document: in its shell blocks, and in its sentences."""
    text = document.read_text(encoding="utf-8")
    sentences = [quoted.replace("\n", " ") for quoted in re.findall(r"(?<!`)`(sfumato [^`]+)`", text)]
    for line in [*shell_lines(document), *sentences]:
        yield from (words[1:] for words in stages(line) if words[0] == "sfumato")


def complaint(words: list[str]) -> str | None:
    """What typer says against the words after `sfumato`, read but not run: an unknown command or flag, a missing argument."""
    command: Any = typer.main.get_command(app)
    root = command
    context, name, rest = typer.Context(command, info_name="sfumato"), "sfumato", words
    try:
        while rest and hasattr(command, "list_commands") and not (command is not root and rest[0].startswith("-")):
            name, command, rest = command.resolve_command(context, rest)
        if rest and "--help" not in rest:
            command.make_context(name, list(rest), parent=context)
    except Exception as error:  # the class is typer's own, or click's, as the version is
        return f"sfumato {shlex.join(words)}: {type(error).__name__} {error}"
    return None


def all_flags(command: Any = None) -> set[str]:
    """Every flag of every command."""
    command = command or typer.main.get_command(app)
    context = typer.Context(command)
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    children = command.list_commands(context) if hasattr(command, "list_commands") else ()
    return flags.union(*(all_flags(command.resolve_command(context, [child, "--of-a-method"])[1]) for child in children))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_their_flags_exist(document: Path) -> None:
    assert not [problem for words in commands(document) if (problem := complaint(words))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_flags_that_sentences_name_exist(document: Path) -> None:
    quoted = re.findall(r"(?<!`)`[^`\n]*`", re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.S | re.M))
    ours = (text for text in quoted if not re.match(r"`(pip|python|make|git|pytest|apt|docker|ray) ", text))
    named = {flag for text in ours for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)}
    assert named <= all_flags() | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_programs_and_targets_that_documents_name_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for program in re.findall(r"python ((?:docs|scripts|examples)/\S+?\.py)", text):
        assert (ROOT / program).exists(), program
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:^|`)make (\w+)", text, re.M)) <= targets


@pytest.mark.parametrize(
    "line",
    [
        "sfumato edit photo.png ball --msk mask.png",
        "sfumato edti photo.png ball",
        "sfumato models pull --revision main",
        "sfumato models pul ID",
    ],
)
def test_a_command_that_does_not_exist_is_found(tmp_path: Path, line: str) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"```bash\ncat photo.png | {line} > out.png  # words\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="sfumato"):
        test_commands_and_their_flags_exist(document)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pictures that the documents name, and `sfumato` on the path."""
    shutil.copy(examples.SCENE, tmp_path / "photo.png")
    shutil.copy(examples.MASK, tmp_path / "mask.png")
    Image.linear_gradient("L").save(tmp_path / "grey.png")
    program = tmp_path / "bin" / "sfumato"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sfumato "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readmes_commands_run(folder: Path) -> None:
    lines = [line for line in shell_lines(README) if "sfumato" in line]
    skipped = {part for part in NOT_RUN if any(part in line for line in lines)}
    assert skipped == set(NOT_RUN), "README has no such command any more"
    for line in lines:
        if not any(part in line for part in NOT_RUN):
            run(line, folder)
    assert Image.open("edited.png").size == Image.open("photo.png").size


def run(line: str, folder: Path) -> None:
    """Run a line in the folder: without pipes in this process, where torch is loaded already."""
    (words,) = (words for words in stages(line) if words[0] == "sfumato")
    if words[1] == "edit" and "--out" not in words:
        shutil.rmtree(folder / "out", ignore_errors=True)  # each line is an example of its own
    if line.startswith("sfumato") and not set("|>") & set(line.partition("#")[0]):
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    else:
        subprocess.run(["sh", "-c", line], cwd=folder, check=True, timeout=600)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=f"{document.stem}-{i}")
        for document in DOCUMENTS
        if document.name not in OWN_TEST
        for i, code in enumerate(code_blocks(document, "python"))
    ],
)
def test_examples_in_python_run(folder: Path, code: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = None
    if "pipe)" in code:
        pipe = StableDiffusionPipeline.from_pretrained(tiny_sd1(folder / "model"), safety_checker=None)
    with serving(settings_for(folder / "data")) as address:
        for name, other in STANDS_FOR.items():
            code = code.replace(name, address if other == "SERVER" else other)
        exec(compile(code, "example.py", "exec"), {"pipe": pipe})
