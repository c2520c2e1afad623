"""Replace the background: the mask shows what is to stay, and is inverted."""

import sfumato
from sfumato import examples

result = sfumato.edit(examples.SCENE, examples.OBJECTS_MASK, "empty grass", invert_mask=True, window="whole", n=2)
result.images[0].save("replace_the_background.png")
print(f"replace_the_background.png: seed {result.seeds[0]}, score {result.scores[0]['total']:.3f}")
