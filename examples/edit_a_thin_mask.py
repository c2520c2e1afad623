"""Edit under a thin mask: a narrow stroke, less than two latent cells wide.

Progressive mask shrinking starts from a wider mask, so that the model has room to begin; for masks as thin as this one it is on
by itself.
"""

import sfumato
from sfumato import examples

for shrink in ("on", "off"):
    result = sfumato.edit(examples.SCENE, examples.THIN_MASK, "a yellow cylinder", shrink=shrink, n=2)
    name = f"edit_a_thin_mask_{shrink}.png"
    result.images[0].save(name)
    print(f"{name}: seed {result.seeds[0]}, score {result.scores[0]['total']:.3f}")
