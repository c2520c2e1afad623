"""Names of a batch's result files, by a pattern."""

from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

from sfumato.batch.locations import check_name
from sfumato.batch.row import Row
from sfumato.errors import OptionError
from sfumato.request import EditRequest

FIELDS = ("stem", "index", "seed")
LAYER = "_layer"  # end of the name of a picture that holds the edit alone


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How result files are called.

    Args:
        pattern: With the fields {stem} (the row's output without its folder), {index} (0 is the best prediction; as many
            digits as the last one needs, at least two) and {seed}. By default {stem} for one prediction, and {stem}_{index}
            for several.
        layer: Whether the edit alone is written too, under the same name with "_layer".

    Raises:
        OptionError: option-invalid: the pattern has another field, no {stem}, or leads out of the folder.
    """

    pattern: str | None = None
    layer: bool = False

    def __post_init__(self) -> None:
        if self.pattern is None:
            return
        try:
            parts = list(Formatter().parse(self.pattern))
        except ValueError as error:
            raise _wrong(self.pattern, str(error)) from None
        fields = [field for _, field, _, _ in parts if field is not None]
        if unknown := [field for field in fields if field not in FIELDS]:
            raise _wrong(self.pattern, f"there is no field {{{unknown[0]}}}")
        if any(form or conversion for _, _, form, conversion in parts):
            raise _wrong(self.pattern, "its fields take no format")
        if "stem" not in fields:
            raise _wrong(self.pattern, "without {stem} all pictures would have one name")
        check_output(self.pattern)

    def path(self, output: str, index: int, n: int, seed: int) -> str:
        """The path of a prediction below the output folder, without its suffix.

        Args:
            output: As in `Row`.
            index: Of the prediction, best first.
            n: Predictions of the row.
            seed: The prediction's own.
        """
        folder, slash, stem = output.rpartition("/")
        pattern = self.pattern or ("{stem}" if n == 1 else "{stem}_{index}")
        digits = max(2, len(str(n - 1)))
        return f"{folder}{slash}{pattern.format(stem=stem, index=f'{index:0{digits}d}', seed=seed)}"

    def paths(self, row: Row) -> Iterator[str]:
        """All that a row will write, without suffixes.

        Raises:
            OptionError: option-contradiction: the pattern gives several predictions one name.
        """
        n, seed = (int(row.options.get(name, EditRequest.model_fields[name].default)) for name in ("n", "seed"))
        if n > 1 and self.pattern is not None and not any(f"{{{field}}}" in self.pattern for field in ("index", "seed")):
            raise OptionError(
                f"The pattern {self.pattern} gives {n} predictions one name; add {{index}} or {{seed}}, or ask for -n 1.",
                code="option-contradiction",
            )
        for index in range(n):
            path = self.path(row.output, index, n, seed + index)
            yield from (path, f"{path}{LAYER}") if self.layer else (path,)


def check_output(path: str) -> None:
    """Refuse a path that is not below the output folder.

    Raises:
        OptionError: name-invalid, output-outside.
    """
    check_name(path)
    parts = path.replace("\\", "/").split("/")
    if parts[0] == "" or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        raise OptionError(
            f"The output {path} does not lie below the output folder; give a relative path without . and .. in it.",
            code="output-outside",
        )


def _wrong(pattern: str, reason: str) -> OptionError:
    fields = ", ".join(f"{{{field}}}" for field in FIELDS)
    return OptionError(f"--name {pattern!r} is not a pattern of {fields}: {reason}.")
