"""The seeds of a run: no two examples share noise."""

import itertools
import zlib

import pytest

from sfumato.bench import seeds
from sfumato.bench.seeds import example_seeds


def colliding() -> list[str]:
    """Two names that ask for the same seeds."""
    found: dict[int, str] = {}
    for i in itertools.count():
        name = f"example-{i}"
        slot = zlib.crc32(name.encode()) % seeds.SLOTS
        if slot in found:
            return [found[slot], name]
        found[slot] = name
    raise AssertionError


@pytest.mark.parametrize("predictions", [1, 4, 1000, 1001, 1024])
def test_no_two_examples_share_a_seed(predictions: int) -> None:
    names = [*colliding(), *(f"{task}-{i:03d}" for task in ("replace", "add", "unseen") for i in range(1000))]
    firsts = sorted(example_seeds(names, 5, predictions).values())
    assert len(firsts) == len(names)
    assert min(after - before for before, after in itertools.pairwise(firsts)) >= predictions


def test_seeds_follow_from_the_name_and_the_run() -> None:
    few, many = example_seeds(["add-000", "add-001"], 0, 4), example_seeds([f"add-{i:03d}" for i in range(32)], 7, 4)
    assert {name: many[name] - 7 for name in few} == few
    assert few["add-000"] == 1000 * (zlib.crc32(b"add-000") % seeds.SLOTS)  # as in the published results
