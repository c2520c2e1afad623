"""Parts of a batch, for schedulers that start one command on each machine."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from sfumato.batch.row import Row
from sfumato.errors import OptionError

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several parts that a batch is split into by a hash of the keys: the same in every run, wherever it runs.

    Args:
        number: From 1.
        of: How many there are.
    """

    number: int
    of: int

    @classmethod
    def parsed(cls, text: str) -> "Shard":
        """The shard that a text such as "2/8" names.

        Raises:
            OptionError: It names none.
        """
        found = _SHARD.fullmatch(text.strip())
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise OptionError(f"--shard {text} is not of the form i/n, such as 1/8, with i from 1 to n.")
        return cls(number=number, of=of)

    @property
    def name(self) -> str:
        """As a part of a file's name."""
        return f"{self.number}-of-{self.of}"

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Those of all rows that belong to this part."""
        return (row for row in rows if self.holds(row.key))

    def holds(self, key: str) -> bool:
        """Whether the row with this key belongs to this part."""
        digest = sha256(key.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1
