"""Guide the edit with a scribble: a rough red blob says where the ball is and how large.

The higher the start fraction, the more of the scribble is kept, and the less the model may make of it.
"""

import sfumato
from sfumato import examples

for start_fraction in (0.2, 0.4, 0.6):
    result = sfumato.edit(
        examples.SCENE, examples.EMPTY_MASK, "a red ball", scribble=examples.SCRIBBLE, start_fraction=start_fraction, n=2
    )
    name = f"paint_a_scribble_{start_fraction}.png"
    result.images[0].save(name)
    print(f"{name}: seed {result.seeds[0]}, score {result.scores[0]['total']:.3f}")
