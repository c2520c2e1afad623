"""Everything that can go wrong, with a stable code, a process exit status and an HTTP status.

EditError
├── InputError                     the request is wrong: fix the input            exit 2
│   ├── ImageError                 unreadable, not an image, too large            image-*
│   ├── MaskError                  missing, empty, full, another size             mask-*
│   └── OptionError                unknown method, scheduler, contradictory       option-*
├── BackboneError                  the model is wrong or absent                   exit 3
│   ├── ModelNotFound              no such folder, file or cached id              model-not-found, model-not-cached
│   ├── UnsafeCheckpoint           pickled weights without --allow-pickle         model-unsafe
│   └── Unsupported                this model cannot run this method              model-unsupported
├── ResourceError                  memory, disk, a missing extra                  exit 4
└── Cancelled                      the user stopped it                            exit 130
"""

from typing import Any

OUT_OF_MEMORY = "out-of-memory"
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")


class EditError(Exception):
    """Base of all errors that are the user's to act on.

    Args:
        message: One sentence: what was given, what is allowed, what to do.
        code: Stable machine-readable name; the class's default when omitted.
    """

    code = "error"
    exit_status = 1
    http_status = 500

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by what it holds, not by calling `__init__` again, whose arguments differ from class to class."""
        return _restored, (type(self), self.args, dict(vars(self)))


class InputError(EditError):
    """The request is wrong."""

    code, exit_status, http_status = "input", 2, 422


class ImageError(InputError):
    """A picture cannot be read, or is too large."""

    code = "image-unreadable"


class MaskError(InputError):
    """A mask is missing, empty, full or ambiguous."""

    code = "mask-invalid"


class OptionError(InputError):
    """An option is unknown, or contradicts another."""

    code = "option-invalid"


class BackboneError(EditError):
    """The model is wrong or absent."""

    code, exit_status, http_status = "model-invalid", 3, 422


class ModelNotFound(BackboneError):
    """There is no such folder, file or cached model."""

    code, http_status = "model-not-found", 404


class UnsafeCheckpoint(BackboneError):
    """The weights are pickled, and pickles were not allowed."""

    code, http_status = "model-unsafe", 403


class Unsupported(BackboneError):
    """This model cannot run this method."""

    code = "model-unsupported"


class ResourceError(EditError):
    """Memory, disk space or an optional package is missing."""

    code, exit_status, http_status = "resource", 4, 507


class Cancelled(EditError):
    """The user stopped the edit."""

    code, exit_status, http_status = "cancelled", 130, 499


def _restored(kind: type[EditError], args: tuple[Any, ...], state: dict[str, Any]) -> EditError:
    error: EditError = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of its accelerator; PyTorch says so in several classes and wordings."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)
