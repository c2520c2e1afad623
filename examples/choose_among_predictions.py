"""Make several predictions with one loaded model and see how they were ranked."""

from sfumato import Editor, examples

editor = Editor()
for rank in ("both", "region", "whole"):
    result = editor.edit(image=examples.SCENE, mask=examples.MASK, prompt="a green cone", n=8, rank=rank)
    result.images[0].save(f"choose_among_predictions_{rank}.png")
    print(f"ranked by {rank}: " + ", ".join(f"seed {seed}" for seed in result.seeds))
