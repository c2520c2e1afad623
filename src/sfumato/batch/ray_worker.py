"""What runs on a Ray cluster's machines: actors that hold an engine and edit rows, and a count of what crashed them."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import sfumato
from sfumato.batch.editing import edit_rows
from sfumato.batch.local import Setup
from sfumato.batch.log import logged
from sfumato.batch.output import Place
from sfumato.batch.row import Fault, Row, RowResult
from sfumato.batch.workers import MOST_CRASHES
from sfumato.errors import EditError, ResourceError

if TYPE_CHECKING:
    import pyarrow as pa

COLUMN = "pickled"  # of Ray Data's tables, whose rows are ours: Arrow guesses no types


def to_table(values: Iterable[Any]) -> pa.Table:
    """Rows, results or errors as a table of Ray Data."""
    import pyarrow as pa

    return pa.table({COLUMN: pa.array([pickle.dumps(value) for value in values], pa.binary())})


def from_table(values: Iterable[bytes]) -> Iterator[Any]:
    """What `to_table` was given."""
    for value in values:
        yield pickle.loads(value)  # noqa: S301, written by the processes of this batch


class Attempts:
    """Counts how often rows were begun and not ended: so many workers crashed at them. An actor, which outlives the workers."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, key: str) -> None:
        """Count a row that is about to be run."""
        self._begun[key] += 1

    def end(self, key: str) -> None:
        """Forget a row that has ended."""
        del self._begun[key]

    def crashes(self, keys: list[str]) -> list[int]:
        """How many workers crashed at each of the rows."""
        return [self._begun[key] for key in keys]


class RowsEditor:
    """Edits tables of rows; an instance lives in each actor of the pool.

    Args:
        setup: What it works with.
        output: Where the files go, as seen from every machine.
        same_model: As in `edit_rows`.
        threads: Of its arithmetic.
        attempts: Handle of the actor of `Attempts`.
        version: Of the package in the process that has the ledger.
    """

    def __init__(self, setup: Setup, output: Place, same_model: bool, threads: int, attempts: Any, version: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self._setup, self._output, self._same_model = setup, output, same_model
        self._attempts, self._version = attempts, version
        self._engine = setup.make_engine()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Edit a table of rows.

        Returns:
            A table of `RowResult`; behind them an `EditError` if the whole batch cannot go on. It comes at once, at the end: a
            table whose worker crashes midway is edited again as a whole, and files that were written are written again, the same.
        """
        root = self._output.root
        with logged(root) if root.is_dir() else nullcontext():  # on another machine without a common folder, Ray has the log
            return to_table(self._edited(list(from_table(table[COLUMN].to_pylist()))))

    def _edited(self, rows: list[Row]) -> Iterator[RowResult | EditError]:
        try:
            if self._version != sfumato.__version__:
                raise ResourceError(
                    f"A machine of the cluster has sfumato {sfumato.__version__}, this one {self._version}; install the same.",
                    code="ray-version",
                )
            for group in self._groups(rows):
                for result in self._results(group):
                    self._tell("end", result.key)
                    yield result
            crashed = [row.key for row, count in self._counted(rows) if count >= MOST_CRASHES]
            yield from (RowResult(key=key, fault=_crash()) for key in crashed)
        except EditError as error:
            yield error

    def _groups(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows that may be edited together, then one by one those at which a worker crashed: one of them is to blame."""
        counted = list(self._counted(rows))
        yield [row for row, count in counted if not count]
        yield from ([row] for row, count in counted if 0 < count < MOST_CRASHES)

    def _counted(self, rows: list[Row]) -> Iterator[tuple[Row, int]]:
        yield from zip(rows, self._tell("crashes", [row.key for row in rows]), strict=True)

    def _results(self, rows: list[Row]) -> Iterator[RowResult]:
        yield from edit_rows(
            rows,
            self._engine,
            self._output,
            read=self._setup.read,
            render=self._setup.render,
            limits=self._setup.limits,
            same_model=self._same_model,
            began=lambda row: self._tell("begin", row.key),
        )

    def _tell(self, method: str, argument: Any) -> Any:
        import ray

        return ray.get(getattr(self._attempts, method).remote(argument))


def _crash() -> Fault:
    message = (
        f"{MOST_CRASHES} workers ended while they edited it, perhaps for lack of memory; try it with a smaller picture or fewer "
        "--workers."
    )
    return Fault(code="worker-crashed", message=message)
