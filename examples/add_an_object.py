"""Add an object where there was none: the mask covers bare table, so nothing of it need survive (start_fraction 0)."""

import sfumato
from sfumato import examples

result = sfumato.edit(examples.SCENE, examples.EMPTY_MASK, "a yellow cube", n=2, start_fraction=0)
result.images[0].save("add_an_object.png")
print(f"add_an_object.png: seed {result.seeds[0]}, score {result.scores[0]['total']:.3f}")
