"""Reading a picture from standard input: `-` in place of a file name."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import typer

from sfumato.cli.destination import STANDARD
from sfumato.errors import EditError, ImageError, OptionError
from sfumato.pictures.files import RAISE, most_bytes
from sfumato.request import EditRequest

BLOCK = 2**20


@contextmanager
def piped(request: EditRequest, max_pixels: int) -> Iterator[EditRequest]:
    """The request with what comes from standard input in a file, which is removed when the block ends.

    Args:
        request: At most one of its pictures is `-`.
        max_pixels: No more bytes are read than such a picture can have.

    Raises:
        OptionError: input-repeated: standard input can be read once; input-terminal: nothing is piped in.
        ImageError: image-too-large.
    """
    names = [name for name, picture in request.pictures().items() if picture == STANDARD]
    if not names:
        yield request
        return
    if len(names) > 1:
        both = " and ".join(names)
        raise OptionError(f"Standard input can be read once, but {both} are to come from it; name a file.", code="input-repeated")
    if sys.stdin is None or sys.stdin.isatty():
        raise OptionError(f"The {names[0]} is to come from standard input: pipe a picture into it.", code="input-terminal")
    with TemporaryDirectory(prefix="sfumato-") as folder:
        path = Path(folder) / "standard-input"
        _copy(typer.get_binary_stream("stdin"), path, names[0], max_pixels)
        try:
            yield request.with_pictures({names[0]: path})
        except EditError as error:
            error.message = error.message.replace(str(path), "from standard input")
            raise


def _copy(stream: BinaryIO, path: Path, what: str, max_pixels: int) -> None:
    left = most_bytes(max_pixels)
    with path.open("xb") as file:
        while block := stream.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise ImageError(
                    f"The {what} from standard input has more bytes than {max_pixels} pixels can fill; "
                    f"make it smaller, or raise the limit: {RAISE}.",
                    code="image-too-large",
                )
            file.write(block)
