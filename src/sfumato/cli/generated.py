"""Commands that take every option of an edit besides their own."""

import inspect
import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any

import typer

from sfumato.cli.options import ARGUMENTS, Grouped, method_named, own_parameters, request_parameters
from sfumato.methods import registry

HELP_WIDTH = 76  # of lines below the options


def generated(
    name: str,
    run: Callable[..., None],
    summary: str,
    arguments: Sequence[str],
    *,
    without: Collection[str] = (),
    positional: Collection[str] = ARGUMENTS,
) -> Any:
    """A command with one option per field of `EditRequest` besides its own.

    The methods' own options are added only if an unknown flag is given or a method's help is requested, since that imports torch.

    Args:
        name: Of the command.
        run: Called with all options; its keyword-only parameters are the command's own.
        summary: First line of the help.
        arguments: Arguments of the call, after the name.
        without: Fields without an option.
        positional: Fields that are arguments.
    """
    card = method_named(arguments) if "--help" in arguments else None
    shared = request_parameters(card, without, positional)
    made = _made(name, run, summary, shared)
    known = {"--help", "--", *(flag for parameter in made.params for flag in (*parameter.opts, *parameter.secondary_opts))}
    if any(word.startswith("--") and word.partition("=")[0] not in known for word in arguments):
        return _made(name, run, summary, [*shared, *own_parameters(registry.CARDS, card)])
    if card is None:
        return made
    return _made(name, run, summary, [*shared, *own_parameters([card], card)])


def _made(name: str, run: Callable[..., None], summary: str, parameters: list[inspect.Parameter]) -> Any:
    own = [given for given in inspect.signature(run).parameters.values() if given.kind is inspect.Parameter.KEYWORD_ONLY]

    def callback(**options: Any) -> None:
        run(**options)

    vars(callback)["__signature__"] = inspect.Signature([*parameters, *own])
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    names = ", ".join(card.name for card in registry.CARDS)
    own_help = f"Methods have options of their own: sfumato {name} --method NAME --help, where NAME is one of {names}."
    epilog = "\b\n" + textwrap.fill(own_help, HELP_WIDTH, break_on_hyphens=False)  # wrapped here: click would break names
    application.command(name, cls=Grouped, help=summary, epilog=epilog)(callback)
    return typer.main.get_command(application)
