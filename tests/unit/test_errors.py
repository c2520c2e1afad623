"""The tree of errors: each class survives the way to another process, and memory that ran out has one name."""

import copy
import importlib
import pickle
import pkgutil

import pytest
import torch

import sfumato
from sfumato.cli.failures import _explain
from sfumato.errors import OUT_OF_MEMORY, EditError, is_out_of_memory


def classes() -> list[type[EditError]]:
    """All of the tree, wherever in the package they are."""
    for module in pkgutil.walk_packages(sfumato.__path__, "sfumato."):
        if module.name.startswith(("sfumato.server", "sfumato.errors", "sfumato.cli")):
            importlib.import_module(module.name)

    def below(kind: type[EditError]) -> list[type[EditError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    return [kind for kind in below(EditError) if kind.__module__.startswith("sfumato")]


def made(kind: type[EditError]) -> EditError:
    if kind.__name__ == "Refused":
        options = {"status": 429, "param": "n", "retry_after": 7}
        return kind("One sentence.", code="a-code", **options)  # type: ignore[call-arg]
    return kind("One sentence.", code="a-code")


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("way", [*range(pickle.HIGHEST_PROTOCOL + 1), "copy", "deepcopy"])
def test_errors_survive_another_process(kind: type[EditError], way: int | str) -> None:
    error = made(kind)
    error.place = "here"  # type: ignore[attr-defined]
    error.add_note("a note")
    there = pickle.loads(pickle.dumps(error, way)) if isinstance(way, int) else getattr(copy, way)(error)
    assert type(there) is kind
    assert vars(there) == vars(error)
    assert (str(there), there.args, there.message, there.code) == ("One sentence.", ("One sentence.",), "One sentence.", "a-code")
    assert (there.http_status, there.exit_status) == (error.http_status, error.exit_status)


def test_the_tree_has_the_servers_class_too() -> None:
    assert {"EditError", "ImageError", "Cancelled", "Refused"} <= {kind.__name__ for kind in classes()}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_memory_that_ran_out_has_one_code(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert _explain(error, "stopped").code == OUT_OF_MEMORY == "out-of-memory"


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError("no space")])
def test_other_errors_are_not_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)
