"""Former location of `sfumato.noise.plan` and `sfumato.noise.solvers`, kept until version 0.2 for programs that import it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfumato.noise.levels import Level, Prediction
from sfumato.noise.plan import Plan, make_plan

__all__ = ["make_solver"]

warnings.warn("sfumato.solvers is sfumato.noise.plan now, and goes with version 0.2.", DeprecationWarning, stacklevel=2)


@dataclass(frozen=True, kw_only=True)
class _Levels(Plan):
    """A plan whose levels are also listed, as the former solver listed them."""

    @property
    def before(self) -> tuple[Level, ...]:
        return tuple(step.before for step in self.steps)

    @property
    def after(self) -> tuple[Level, ...]:
        return tuple(step.after for step in self.steps)


def make_solver(
    name: str,
    config: Mapping[str, Any],
    prediction_type: Prediction | str,
    steps: int,
    start_fraction: float = 0.0,
    start_sigma: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> _Levels:
    """See `sfumato.noise.plan.make_plan`; what steps through the plan is `sfumato.noise.solvers.Solver`."""
    plan = make_plan(name, config, prediction_type, steps, start_fraction, start_sigma, overrides)
    return _Levels(**{field: getattr(plan, field) for field in Plan.__dataclass_fields__})
