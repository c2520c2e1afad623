"""Local, text-driven image editing with diffusion models: only what lies under a mask changes.

import sfumato

result = sfumato.edit("photo.png", "mask.png", "a red ball")
sfumato.save(result.images[0], "edited.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato import errors
    from sfumato.editor import Editor, edit
    from sfumato.pictures.writing import save
    from sfumato.request import EditRequest, EditResult

__version__ = "0.1.0"
__all__ = ["EditRequest", "EditResult", "Editor", "__version__", "edit", "errors", "save"]

_HOMES = {"Editor": "editor", "edit": "editor", "EditRequest": "request", "EditResult": "request", "save": "pictures.writing"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import sfumato` alone loads no torch."""
    if name == "errors":
        return import_module("sfumato.errors")
    if name in _HOMES:
        return getattr(import_module(f"sfumato.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "errors"])
