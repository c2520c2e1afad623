"""The command line: options."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sfumato.cli.edit import command
from sfumato.cli.main import app
from sfumato.cli.options import ARGUMENTS, build_request, flag_of
from sfumato.errors import OptionError
from sfumato.methods import registry
from sfumato.methods.base import MethodCard
from sfumato.pictures.reading import read
from sfumato.request import EditRequest
from tests.unit.cli.painter import Painter


def test_every_field_of_the_request_has_an_option() -> None:
    flags = {flag for parameter in command("edit", "").params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for name in EditRequest.shared_fields():
        if name not in ARGUMENTS:
            assert flag_of(name) in flags
        if EditRequest.model_fields[name].annotation is bool:
            assert f"--no-{name.replace('_', '-')}" in flags


def help_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["edit", *arguments, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return result.stdout


def test_help_shows_shared_options_and_how_to_see_the_others() -> None:
    shown = help_of()
    assert "--scheduler" in shown
    assert "--langevin-steps" not in shown
    assert "sfumato edit --method NAME --help" in shown
    assert all(card.name in shown for card in registry.CARDS)


@pytest.mark.parametrize("arguments", [("--method", "lanpaint"), ("--method=repaint", "--method=lanpaint")])
def test_help_of_a_method_shows_its_own_options_under_its_name_and_none_that_it_lacks(arguments: tuple[str, ...]) -> None:
    shown = help_of(*arguments)
    own = shown.partition("LanPaint:\n")[2]
    assert "--langevin-steps INT " in own
    assert "--langevin-strength NUMBER " in own
    assert "--steps" in shown.partition("LanPaint:\n")[0]
    for flag in ("--jump-length", "--soft-mask", "--shrink", "--clip-model"):
        assert flag not in shown
    assert CliRunner().invoke(app, ["edit", "--help", *arguments], env={"COLUMNS": "200"}).stdout == shown


def test_an_option_declared_in_a_method_s_file_is_a_flag(
    warmed: MethodCard, run: Callable[..., Result], painter: type[Painter]
) -> None:
    shown = help_of("--method", warmed.name)
    assert "--langevin-warmth INT " in shown
    assert "--langevin-secret TEXT " in shown
    assert "How warm it gets." in shown
    assert "--langevin-hidden" not in shown
    assert run("edit", "--method", warmed.name, "--langevin-warmth", "4").exit_code == 0
    assert run("edit", "--method", warmed.name, "--no-langevin-switch", "--force").exit_code == 0
    assert [call.options for call in painter.calls] == [{"langevin_warmth": 4}, {"langevin_switch": False}]
    refused = run("edit", "--method", warmed.name, "--langevin-warmth", "10", "--force")
    assert "--langevin-warmth '10' is not allowed: input should be less than or equal to 9." in refused.stderr


def test_a_method_that_is_not_named_is_left_to_the_model(run: Callable[..., Result], painter: type[Painter]) -> None:
    assert run("edit").exit_code == run("edit", "--method", "blended-latent-diffusion", "--force").exit_code == 0
    assert ["method" in request.model_fields_set for request in painter.calls] == [False, True]


def test_every_method_s_flags_are_understood_with_any_method(run: Callable[..., Result], painter: type[Painter]) -> None:
    assert run("edit", "--jump-length=3").exit_code == 0
    assert painter.calls[0].options == {"jump_length": "3"}  # as given: the method that reads it is not known yet


def test_a_flag_that_no_method_has_is_refused_with_what_is_near(run: Callable[..., Result]) -> None:
    assert "No such option: --langevin-stesp" in run("edit", "--langevin-stesp", "3").stderr


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
