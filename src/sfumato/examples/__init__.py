"""Pictures to try things on: a rendered scene that ships with its masks, and a photograph from scikit-image."""

from pathlib import Path

from PIL import Image

from sfumato.errors import ResourceError

FOLDER = Path(__file__).parent
SCENE = FOLDER / "scene.png"
MASK = FOLDER / "scene_mask.png"  # the blue cube: replace it
EMPTY_MASK = FOLDER / "scene_empty_mask.png"  # bare ground in front: add something
THIN_MASK = FOLDER / "scene_thin_mask.png"  # a narrow stroke on bare ground
OBJECTS_MASK = FOLDER / "scene_objects_mask.png"  # everything that stands there: inverted, it is the background
SCRIBBLE = FOLDER / "scene_scribble.png"  # a rough red blob, transparent elsewhere, for EMPTY_MASK
PROMPT = "a red ball"


def photograph() -> Image.Image:
    """A cup of coffee on a wooden table (scikit-image's `coffee`, public domain), 600x400.

    Raises:
        ResourceError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ResourceError(
            'The example photograph comes from scikit-image: pip install "sfumato[demo]".', code="extra-missing"
        ) from error
    return Image.fromarray(data.coffee())


PHOTOGRAPH_BOX = (430, 250, 130, 120)  # table beside the cup, and the rim of the plate: what is measured
PHOTOGRAPH_PROMPT = "a green cone"
DEMO_BOX = (480, 255, 112, 112)  # bare table
DEMO_PROMPT = "a green ball"
