"""Error reporting of the command line: one sentence and one exit status for every failure."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from sfumato.cli.interruption import PIPE_STATUS, abandon_streams, signals_raised
from sfumato.errors import OUT_OF_MEMORY, Cancelled, EditError, ResourceError, is_out_of_memory


@contextmanager
def reported(
    as_json: bool = False, debug: bool = False, stopped: str = "stopped; nothing was written.", *, signals: bool = True
) -> Iterator[None]:
    """Turn exceptions into `error: sentence [code]` on stderr and the error's exit status; SIGTERM and SIGHUP too.

    A reader that closed its end of a pipe needs no sentence.

    Args:
        as_json: Also print {"error": {"code", "message"}} on stdout.
        debug: Let the traceback through; the environment variable SFUMATO_DEBUG=1 does the same.
        stopped: What to say after Ctrl-C or a signal.
        signals: Whether SIGTERM and SIGHUP are handled here.
    """
    with signals_raised(signals) as statuses:
        try:
            yield
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            abandon_streams()
            raise typer.Exit(PIPE_STATUS) from None
        except (Exception, KeyboardInterrupt) as error:
            if (debug or os.environ.get("SFUMATO_DEBUG") == "1") and not statuses:
                raise
            _forget_interrupt()
            _stop(_explain(error, stopped), as_json, statuses)


def _forget_interrupt() -> None:
    """Let the process end with its own exit status.

    An interrupt that passes through exec(string), which dataclasses and namedtuples use while modules are imported, leaves
    CPython bound to end by SIGINT whatever exit status is asked for; the next exec clears that.
    """
    exec("")


def _explain(error: BaseException, stopped: str) -> EditError:
    if isinstance(error, EditError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Cancelled(stopped)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError("the disk is full; free some space or choose another --out.", code="disk-full")
    if is_out_of_memory(error):
        return ResourceError("out of memory; ask for a smaller --batch-size or --size.", code=OUT_OF_MEMORY)
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return EditError(f"something unexpected happened ({cause}); run again with --debug to see where.", code="internal")


def _stop(error: EditError, as_json: bool, statuses: list[int]) -> NoReturn:
    """Print the reason and exit, with a signal's exit status if there was one."""
    try:
        typer.echo(f"error: {error.message} [{error.code}]", err=True)
        if as_json:
            typer.echo(json.dumps({"error": {"code": error.code, "message": error.message}}))
    except OSError:  # the terminal has gone, which is what SIGHUP is about; or the disk that stdout goes to is full
        pass
    abandon_streams()
    raise typer.Exit(statuses[0] if statuses else error.exit_status)
