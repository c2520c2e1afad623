"""Lines of a text file, of which long ones are skipped without being held in memory."""

from collections.abc import Iterator
from typing import IO

from sfumato.errors import InputError, OptionError

LONGEST_LINE = 2**20  # bytes
PIECE = 2**16


class Lines(Iterator[str]):
    """Lines with their ends, decoded as UTF-8. The next one can be asked for after an error.

    Args:
        stream: The file.

    Raises:
        OptionError: line-too-long: more than `LONGEST_LINE` bytes. line-invalid: not UTF-8.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.number = 0  # of the line that was last returned or raised about, from 1

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        """The next line."""
        line = self._stream.readline(LONGEST_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > LONGEST_LINE:
            size = len(line)
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(PIECE)
                size += len(line)
            raise OptionError(
                f"Line {self.number} has {size} bytes, and at most {LONGEST_LINE} are read; name pictures by their paths.",
                code="line-too-long",
            )
        if self.number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise line_error(self.number, f"is not UTF-8 ({error.reason})") from None


def line_error(number: int, what: str) -> InputError:
    """The error about a line that cannot be read."""
    return OptionError(f"Line {number} {what}; correct it.", code="line-invalid")
