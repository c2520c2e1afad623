"""Installed and missing optional dependencies, from the package's metadata."""

from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "sfumato"


def lacking() -> dict[str, list[str]]:
    """Every extra, with those of its packages that are absent or too old; empty where the package itself is not installed."""
    try:
        names = metadata(PACKAGE).get_all("Provides-Extra") or []
        requirements = [Requirement(text) for text in requires(PACKAGE) or []]
    except PackageNotFoundError:
        return {}
    return {name: sorted(_lacking(name, requirements)) for name in names}


def _lacking(extra: str, requirements: list[Requirement]) -> set[str]:
    found: set[str] = set()
    for requirement in requirements:
        if not _belongs(requirement, extra):
            continue
        if canonicalize_name(requirement.name) == PACKAGE:  # an extra made of others
            for other in requirement.extras - {extra}:
                found |= _lacking(other, requirements)
        elif not _installed(requirement):
            found.add(requirement.name)
    return found


def _belongs(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
