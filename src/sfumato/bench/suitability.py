"""Which variants can make an example: not every method has every task and option, or does without words."""

from sfumato.bench.tasks import Example
from sfumato.bench.variants import Variant
from sfumato.methods import registry

OF_MASKS = ("soft_mask", "mask_grow")


def obstacle(example: Example, variant: Variant) -> str | None:
    """Why a variant cannot make an example, as part of a sentence; None if it can.

    Only what one task asks of a method is looked for here; options that are wrong in themselves are refused by the editor.
    """
    fields = {"task": "edit", **example.fields, **variant.fields}
    card = registry.get(variant.method)
    task = card.tasks.get(fields["task"])
    if task is None:
        return f"{variant.method} has no task {fields['task']}"
    unknown = registry.method_fields().intersection(example.fields).difference(registry.fields_of(card))
    if unknown:
        return f"{variant.method} has no option {min(unknown)}"
    if not example.prompt:
        if task.wordless is None:
            return f"{variant.method} needs words"
        if fields.get("rank") == "region":
            return "rank=region needs words"
    if example.inner is not None:
        name = next((name for name in OF_MASKS if fields.get(name)), None)
        return f"{name} needs a mask, and margins have none" if name else None
    return None
