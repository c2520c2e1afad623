"""Benchmark plan of the rendered tasks."""

from collections.abc import Sequence

from sfumato.bench.runner import Plan
from sfumato.bench.tasks import SIZE, TASKS, Example, check_tasks, example

EXAMPLES, QUICK = 32, 8
PREDICTIONS, QUICK_PREDICTIONS = 4, 2
QUICK_TASKS = ("replace", "add", "remove", "recolour", "background", "thin", "scribble", "unseen")


def plan(
    tasks: Sequence[str] = (), count: int = EXAMPLES, size: int = SIZE, predictions: int = PREDICTIONS, seed: int = 0
) -> Plan:
    """All examples of some tasks; the first `count` of a longer plan are the same.

    Args:
        tasks: Names; none means all.
        count: Examples of each.
        size: Side of the pictures in pixels.
        predictions: Per edit.
        seed: Of the edits; the scenes do not depend on it.

    Raises:
        OptionError: task-unknown.
    """
    check_tasks(tuple(tasks))
    chosen = [task for task in TASKS if task in tasks] or list(TASKS)

    def make(name: str) -> Example:
        task, _, number = name.rpartition("-")
        return example(task, int(number), size)

    return Plan(
        identity={"protocol": "scenes", "tasks": chosen, "count": count, "size": size},
        names=[f"{task}-{number:03d}" for task in chosen for number in range(count)],
        make=make,
        predictions=predictions,
        seed=seed,
    )
