"""Notes on what made an edit cheaper and other than it would have been."""

from sfumato.editing.prepared import Prepared, PreparedWindow


def speed_notes(edit: Prepared) -> list[str]:
    """What `fast` set, and what guidance interval, step cache and early rejection did."""
    request, notes = edit.resolved.request, []
    if request.fast:
        given = ", ".join(f"{name} {_said(value)}" for name, value in edit.resolved.fast.items())
        notes.append(f"fast set: {given}." if given else "fast set nothing: all that it sets was given.")
    for window in edit.windows:
        notes += _guidance_notes(window)
    if (request.step_cache or 1) > 1:
        notes.append(f"Of {request.step_cache} steps one computed the model's deeper levels (step_cache), which changes details.")
    if request.region_start != type(request).model_fields["region_start"].default and not request.region:
        notes.append("region_start does nothing without region.")
    first = edit.windows[0]
    if first.count > request.n and not first.rejects:
        notes.append(
            f"The mask's islands lie in {len(edit.windows)} windows, so no candidate was dropped early: all were finished, and "
            "the best kept."
        )
    return list(dict.fromkeys(notes))


def _said(value: object) -> str:
    return ",".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)


def _guidance_notes(window: PreparedWindow) -> list[str]:
    if window.request.guidance_interval is None:
        return []
    if window.guidance_scale == 1.0:
        return ["guidance_interval does nothing at guidance_scale 1, where there is no guidance."]
    steps = window.plan.run
    return [f"There was guidance in {sum(map(window.guidance.acts, steps))} of {len(steps)} steps."]
