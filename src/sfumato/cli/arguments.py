"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

DEVICES = "cpu, cuda, cuda:N or mps"

Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an unexpected error happened.")]
Device = Annotated[str | None, typer.Option(help=f"{DEVICES}; the fastest by default.", metavar="NAME")]
Devices = Annotated[
    list[str] | None, typer.Option("--device", help=f"{DEVICES}, one worker each; the fastest by default.", metavar="NAME")
]
StoredDevice = Annotated[str | None, typer.Option(help="By default the one it was made on.", metavar="NAME")]
Dtype = Annotated[str | None, typer.Option(help="By default the fastest accurate one.", metavar="float32|bfloat16|float16")]
Memory = Annotated[
    str, typer.Option(help="Weights on the device: all, a network or a layer at a time.", metavar="auto|full|offload|sequential")
]
Quantization = Annotated[str | None, typer.Option(help="Weights in fewer bits; approximate.", metavar="int8|fp8|nf4")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the model's blocks at their first call; for a GPU.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled checkpoints too.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
