"""Sampler names of the web UI and similar programs, mapped to our solvers."""

import re
from typing import TypeGuard

from sfumato.server.failures import Refused

SOLVERS = {"DDIM": "ddim", "Euler": "euler", "DPM++ 2M": "dpm++", "UniPC": "unipc", "LCM": "lcm", "Flow Euler": "flow-euler"}
NAMES = {solver: name for name, solver in SOLVERS.items()}
LISTED = {  # what clients are offered, with the names that they may use for it as well
    "DDIM": ["ddim"],
    "Euler": ["k_euler"],
    "DPM++ 2M": ["k_dpmpp_2m"],
    "UniPC": ["unipc"],
    "LCM": ["k_lcm"],
    "Flow Euler": ["flow-euler"],
    "Euler a": ["k_euler_a", "k_euler_ancestral"],
    "DPM++ 2M Karras": ["k_dpmpp_2m_ka"],
}
_SAME = {
    "ddim": "DDIM",
    "euler": "Euler",
    "dpmpp": "DPM++ 2M",
    "dpmpp2m": "DPM++ 2M",
    "dpmsolvermultistep": "DPM++ 2M",
    "unipc": "UniPC",
    "lcm": "LCM",
    "floweuler": "Flow Euler",
}
# By the beginning of a name, the first that fits: what is of the same family or order, without the noise that it draws.
_NEAREST = {
    "dpmpp": "DPM++ 2M",
    "dpm": "DPM++ 2M",
    "kdpm": "DPM++ 2M",
    "deis": "DPM++ 2M",
    "ipndm": "DPM++ 2M",
    "sasolver": "DPM++ 2M",
    "ersde": "DPM++ 2M",
    "seeds": "DPM++ 2M",
    "resmultistep": "DPM++ 2M",
    "unip": "UniPC",
    "ddim": "DDIM",
    "ddpm": "DDIM",
    "plms": "DDIM",
    "pndm": "DDIM",
    "flow": "Flow Euler",
    "euler": "Euler",
    "heun": "Euler",
    "lms": "Euler",
    "restart": "Euler",
    "edm": "Euler",
    "gradientestimation": "Euler",
    "lcm": "LCM",
    "tcd": "LCM",
}
_UNSAID = ("automatic", "auto", "default", "none", "usedefault", "usesamesampler", "usesamescheduler")
_PREFIX = re.compile(r"^(k|sample)[ _-]+", re.IGNORECASE)
_SPACING = re.compile(r"(karras|polyexponential|exponential|sgmuniform|uniform|simple|normal|beta|ka)$")


def solver_for(sampler: str | None, spacing: str | None) -> tuple[str | None, list[str]]:
    """Our solver for a sampler of the web UI, of k-diffusion, ComfyUI or diffusers, whatever its case and punctuation.

    Args:
        sampler: Its name; the model's default if absent or automatic.
        spacing: The web UI's scheduler, which spaces the steps. Here the solver's own spacing is used.

    Returns:
        The solver, and a note where it is not just what was asked for.

    Raises:
        Refused: sampler-unknown, with the names that there are.
    """
    notes: list[str] = []
    if _is_said(spacing):
        notes.append(f"The scheduler {_short(spacing)} was ignored: steps are spaced as the solver has them.")
    if not _is_said(sampler):
        return None, notes
    plain = _plain(sampler)
    bare = _SPACING.sub("", plain)
    name = _SAME.get(bare) or next((near for start, near in _NEAREST.items() if bare.startswith(start)), None)
    if name is None:
        raise Refused(
            f"Sampler not found: {_short(sampler)!r}; there are {', '.join(LISTED)}.",
            code="sampler-unknown",
            status=404,
            param="sampler_name",
        )
    if _SAME.get(plain) != name:
        notes.insert(0, f"{_short(sampler)} was run as {name}.")
    return SOLVERS[name], notes


def _is_said(name: str | None) -> TypeGuard[str]:
    return name is not None and bool(name.strip()) and _plain(name) not in _UNSAID


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _PREFIX.sub("", name.strip()).lower().replace("+", "p"))


def _short(name: str) -> str:
    return name.strip()[:100]
