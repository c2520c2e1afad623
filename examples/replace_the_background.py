"""Replace the background: the mask shows what is to stay, and is inverted and grown, so that no rim of the old one stays."""

import sfumato
from sfumato import examples

result = sfumato.edit(examples.SCENE, examples.OBJECTS_MASK, "empty snow", invert_mask=True, mask_grow=2, window="whole")
result.images[0].save("replace_the_background.png")
print(f"replace_the_background.png: seed {result.seeds[0]}, score {result.scores[0]['total']:.3f}")
