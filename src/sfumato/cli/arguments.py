"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an unexpected error happened.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
