"""Which errors are a row's, and which would meet every other row too."""

import errno
import logging
from pathlib import PurePath

from pydantic import ValidationError

from sfumato.batch.row import Fault, Row
from sfumato.errors import OUT_OF_MEMORY, EditError, ResourceError, is_out_of_memory
from sfumato.request import refusal

FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (*FULL, errno.EROFS, errno.EIO)

log = logging.getLogger("sfumato.batch")


def of_row(row: Row, error: BaseException) -> Fault:
    """The fault of a row that failed with an error."""
    if isinstance(error, ValidationError):
        error = refusal(error)
    if isinstance(error, EditError):
        if error.code == "internal":
            log.error("row %r: %s", row.key, error.message)  # which the engine has logged under another name
        return Fault(code=error.code, message=error.message)
    if is_out_of_memory(error):
        return Fault(code=OUT_OF_MEMORY, message="Out of memory; ask for less, or a smaller picture.")
    if isinstance(error, OSError):
        named = PurePath(str(error.filename)).name if error.filename else "A file of the row"
        return Fault(code="input-unreadable", message=f"{named} cannot be read ({error.strerror or error}); look after it.")
    log.error("row %r failed", row.key, exc_info=error)
    return Fault(code="internal", message=f"Something unexpected happened ({type(error).__name__}); batch.log has it.")


def of_batch(error: BaseException) -> EditError | None:
    """The error that ends the whole batch, if writing another row would fail in the same way; None if it is the row's own."""
    if isinstance(error, EditError) and error.code == "disk-full":
        return _full()
    if isinstance(error, EditError) and error.code == "store-unwritable":
        return error
    number = error.errno if isinstance(error, OSError) else getattr(error.__cause__, "errno", None)
    if number in FULL:
        return _full()
    if number in BROKEN:
        return ResourceError(
            f"The output folder cannot be written any more ({error}); look after its disk, then run the same command again.",
            code="output-unwritable",
        )
    return None


def _full() -> ResourceError:
    return ResourceError(
        "The disk of the output folder is full; make room and run the same command again, which goes on where it stopped.",
        code="disk-full",
    )
