"""Soft masks: white may change completely, grey only so much, black not at all.

A blurred mask lets an edit fade into its surroundings; an even grey keeps more of what is there.
"""

from PIL import Image, ImageFilter

import sfumato
from sfumato import examples

white = Image.open(examples.MASK).convert("L")
masks = {"blurred": white.filter(ImageFilter.GaussianBlur(12)), "grey": white.point(lambda level: level * 6 // 10)}
for name, mask in masks.items():
    result = sfumato.edit(examples.SCENE, mask, examples.PROMPT, soft_mask=True, n=2)
    result.images[0].save(f"change_by_degrees_{name}.png")
    print(f"change_by_degrees_{name}.png: seed {result.seeds[0]}, score {result.scores[0]['total']:.3f}")
