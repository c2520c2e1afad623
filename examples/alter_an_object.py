"""Alter an object: the blue cube of the bundled scene becomes a red ball."""

import sfumato
from sfumato import examples

result = sfumato.edit(examples.SCENE, examples.MASK, "a red ball", n=2)
result.images[0].save("alter_an_object.png")
print(f"alter_an_object.png: seed {result.seeds[0]}, score {result.scores[0]['total']:.3f}")
