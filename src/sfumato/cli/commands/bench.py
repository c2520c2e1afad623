"""`sfumato bench`: options. What it does is imported when it is called, so that help is fast."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.backbones.options import LoadOptions
from sfumato.cli.arguments import Compile, Debug, Device, Dtype, Json, Memory, Offline, Out, Quantization
from sfumato.cli.commands.bench_speed import speed
from sfumato.cli.failures import reported
from sfumato.errors import OptionError

bench = typer.Typer(rich_markup_mode=None)
bench.command()(speed)


@bench.callback(invoke_without_command=True)
def quality(
    context: typer.Context,
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Only this task; may be repeated.", metavar="NAME")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="An ablation: background|shrinking|ranking|start|guidance|wordless.", metavar="NAME")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="8 examples of 2 predictions, not 32 of 4, and the first eight tasks alone.")
    ] = False,
    examples: Annotated[int | None, typer.Option(min=1, help="Examples of each task.", metavar="INT")] = None,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of the rendered scenes in pixels.", metavar="INT")] = 128,
    predictions: Annotated[int | None, typer.Option("-n", min=1, help="Predictions of each edit.", metavar="INT")] = None,
    model: Annotated[str, typer.Option(help="'embedded', a hub id, a folder, or a file.", metavar="ID")] = "embedded",
    method: Annotated[str, typer.Option(help="See `sfumato methods`.", metavar="NAME")] = "blended-latent-diffusion",
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare, or all that the models which ship can run.", metavar="A,B|all")
    ] = None,
    options: Annotated[str | None, typer.Option(help="Fields of the request for all edits.", metavar="KEY=VALUE,...")] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Two methods, models or sets of options, each NAME, KEY=VALUE,... or NAME:KEY=VALUE,...", metavar="A B"
        ),
    ] = None,
    also: Annotated[list[str] | None, typer.Option(help="One more to compare; may be repeated.", metavar="C")] = None,
    protocol: Annotated[str, typer.Option(help="scenes, paper, brushbench or editbench.", metavar="NAME")] = "scenes",
    data: Annotated[Path | None, typer.Option(help="Folder of the data, for the other protocols.", metavar="DIR")] = None,
    classifier: Annotated[str | None, typer.Option(help="ImageNet classifier of the paper's protocol.", metavar="ID")] = None,
    prompts: Annotated[str | None, typer.Option(help="Of EditBench: full, mask-simple or mask-rich.", metavar="NAME")] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="All seeds of the edits follow from it.", metavar="INT")] = 0,
    out: Out = Path("bench-out"),
    force: Annotated[bool, typer.Option("--force", help="Start anew instead of going on with what is there.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = "auto",
    quantization: Quantization = None,
    compile: Compile = False,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure methods, options and models on tasks with known answers; interrupted runs go on where they were."""
    with reported(as_json, debug):
        if context.invoked_subcommand is not None:
            _refuse_options(context, context.invoked_subcommand)
            return
        from sfumato.cli.bench import Settings, run

        run(
            Settings(
                tasks=tuple(task or ()),
                suite=suite,
                quick=quick,
                examples=examples,
                size=size,
                predictions=predictions,
                model=model,
                method=method,
                methods=methods,
                options=options,
                compare=(*(compare or ()), *(also or ())),
                protocol=protocol,
                data=data,
                classifier=classifier,
                prompts=prompts,
                seed=seed,
                out=out,
                force=force,
                load=LoadOptions(
                    device=device, dtype=dtype, offline=offline, memory=memory, quantization=quantization, compile=compile
                ),
                as_json=as_json,
            )
        )


def _refuse_options(context: typer.Context, command: str) -> None:
    """Refuse options of this command before the name of one below it, which would not see them.

    Raises:
        OptionError: option-contradiction.
    """
    given = [
        p.opts[0]
        for p in context.command.params
        if getattr(context.get_parameter_source(p.name or ""), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise OptionError(
            f"{', '.join(given)} before '{command}' would have no effect; options of bench {command} stand behind it.",
            code="option-contradiction",
        )
