"""The command line: options."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sfumato.cli.edit import command
from sfumato.cli.main import app
from sfumato.cli.options import ARGUMENTS, build_request, flag_of
from sfumato.errors import OptionError
from sfumato.pictures.reading import read
from sfumato.request import EditRequest
from tests.unit.cli.painter import Painter


def test_every_field_of_the_request_has_an_option() -> None:
    flags = {flag for parameter in command("edit", "").params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for name, field in EditRequest.model_fields.items():
        if name not in ARGUMENTS:
            assert flag_of(name) in flags
        if field.annotation is bool:
            assert f"--no-{name.replace('_', '-')}" in flags


def test_options_default_to_the_fields_defaults(run: Callable[..., Result], painter: type[Painter]) -> None:
    result = run("edit")
    assert result.exit_code == 0, result.stderr
    (request,) = painter.calls
    assert request == EditRequest(image=request.image, mask=request.mask, prompt="a ball")


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("--size", "96x64"), "size", (96, 64)),
        (("--window", "whole"), "window", "whole"),
        (("--window", "0,0,8,8"), "window", (0, 0, 8, 8)),
        (("--lora", "a.safetensors", "--lora", "b.safetensors:0.5"), "lora", ("a.safetensors", "b.safetensors:0.5")),
        (("--embedding", "a.safetensors", "--embedding", "b.pt:<x>"), "embedding", ("a.safetensors", "b.pt:<x>")),
        (("--no-prompt-weights",), "prompt_weights", False),
        (("--clip-skip", "1"), "clip_skip", 1),
        (("--invert-mask",), "invert_mask", True),
        (("--no-keep-unmasked",), "keep_unmasked", False),
        (("-n", "2"), "n", 2),
        (("--start-fraction", "0.4"), "start_fraction", 0.4),
        (("--mask-grow", "-3"), "mask_grow", -3),
        (("--fill", "blur"), "fill", "blur"),
    ],
)
def test_option_values(
    run: Callable[..., Result], painter: type[Painter], arguments: tuple[str, ...], field: str, value: object
) -> None:
    assert run("edit", *arguments).stderr == "note: The model does not know 'gnu'.\n"
    assert getattr(painter.calls[0], field) == value


def test_box(run: Callable[..., Result], painter: type[Painter], picture_file: Path, tmp_path: Path) -> None:
    command_line = ["edit", str(picture_file), "a ball", "--box", "1,2,3,4", "-n", "1", "--out", str(tmp_path / "boxed")]
    assert CliRunner().invoke(app, command_line).exit_code == 0
    assert painter.calls[0].box == (1, 2, 3, 4)
    assert (read(tmp_path / "boxed" / "00.png").rgb[2:6, 1:4] == 0).all()


@pytest.mark.parametrize("value", ["1,2,3", "a,b,c,d", "5"])
def test_malformed_box(value: str) -> None:
    with pytest.raises(OptionError, match=r"--box '.*' is not of the form X,Y,W,H"):
        build_request({"image": "a.png", "prompt": "a ball", "box": value})


def test_words_are_utf_8_whatever_the_locale(run: Callable[..., Result], painter: type[Painter], picture_file: Path) -> None:
    """A locale of ASCII hands over the bytes as lone surrogates."""
    words = "красный шар 🎈\nв две строки"
    as_given = words.encode().decode("ascii", "surrogateescape")
    for given in (words, as_given):
        invoked = run("edit", "--negative-prompt", given, "--force")
        assert invoked.exit_code == 0
    request = build_request({"image": str(picture_file), "prompt": as_given})
    assert {call.negative_prompt for call in painter.calls} | {request.prompt} == {words}


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_words_that_are_no_text_are_refused_by_name(field: str) -> None:
    """Such as what a batch file of another code page hands over."""
    options = {"image": "a.png", "prompt": "a ball", field: b"caf\xe9".decode("utf-8", "surrogateescape")}
    with pytest.raises(
        OptionError, match=r"(PROMPT|--negative-prompt) 'caf\\udce9' is not allowed: it holds bytes that are not UTF-8"
    ):
        build_request(options)
