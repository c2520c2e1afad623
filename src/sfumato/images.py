"""The former name of `sfumato.pictures.reading`, kept until version 0.2 for programs that import it."""

import warnings

from sfumato.pictures.reading import read, read_metadata

__all__ = ["read", "read_metadata"]

warnings.warn("sfumato.images is sfumato.pictures.reading now, and goes with version 0.2.", DeprecationWarning, stacklevel=2)
