"""Make the pictures of the README and the guide with the shipped model: `python docs/pictures.py`.

They show what the commands and the programs in examples/ give: demo.png and photograph.png are the sheets of `sfumato demo`,
scenarios.png puts the results of four examples side by side, embedded.png is the sheet of `python scripts/embedded.py`.
"""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SIDE = 256
SCENARIOS = {  # program in examples/, and which of its results is shown
    "add_an_object": "add_an_object.png",
    "replace_the_background": "replace_the_background.png",
    "edit_a_thin_mask": "edit_a_thin_mask_on.png",
    "paint_a_scribble": "paint_a_scribble_0.4.png",
}


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([sys.executable, "-m", "sfumato", "demo", "--out", "demo"], check=True)
        shutil.copy("demo/scene/grid.png", IMAGES / "demo.png")
        shutil.copy("demo/photograph/grid.png", IMAGES / "photograph.png")
        tiles = []
        for program, result in SCENARIOS.items():
            runpy.run_path(str(ROOT / "examples" / f"{program}.py"), run_name="__main__")
            tiles.append(np.asarray(Image.open(result).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
        Image.fromarray(np.concatenate(tiles, axis=1)).save(IMAGES / "scenarios.png", optimize=True)
        os.chdir(ROOT)
    subprocess.run([sys.executable, str(ROOT / "scripts" / "embedded.py"), str(IMAGES / "embedded.png")], check=True)


if __name__ == "__main__":
    main()
