"""Edits with a SmartBrush: what a precision makes of the mask, what is kept, and when other methods refuse its model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato import Editor
from sfumato.backbones import hub
from sfumato.editing.tasks import preferred
from sfumato.embedded.adapter import Adapter, base_digest
from sfumato.errors import MaskError, ModelNotFound, OptionError, Unsupported
from sfumato.request import make_request
from sfumato.training.smartbrush import widened
from tests import tiny_models

SIDE = 64
FEW: dict[str, Any] = {"prompt": "a red ball", "steps": 2, "rank": "none", "background": "paste", "n": 1}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(str(tiny_models.tiny_smartbrush(tmp_path_factory.mktemp("models") / "smartbrush")), dtype="float32")


@pytest.fixture
def fields() -> dict[str, Any]:
    """A picture, and a mask that is no box: a disc."""
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    return {"image": image, "mask": disc((32, 30)), **FEW}


def disc(*middles: tuple[int, int], side: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    y, x = np.mgrid[: side[1], : side[0]]
    inside = np.any([np.hypot(x - across, y - down) < 11 for across, down in middles], axis=0)
    return Image.fromarray(inside.astype(np.uint8) * 255)


def changed(result: Any, image: Image.Image) -> np.ndarray:
    return (np.asarray(result.images[0]) != np.asarray(image)).any(-1)


def test_it_is_the_method_of_its_model(editor: Editor, fields: dict[str, Any]) -> None:
    for task in ("edit", "shape"):
        request = editor.edit(**fields, task=task).request
        assert (request.method, request.task, request.start_fraction) == ("smartbrush", task, 0.0)


def test_the_mask_becomes_as_rough_as_its_precision(editor: Editor, fields: dict[str, Any]) -> None:
    drawn = np.asarray(fields["mask"]) > 0
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    box = np.zeros_like(drawn)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    before = drawn
    for precision, exactly in ((None, drawn), (0, drawn), (1, None), (3, None), (4, box)):
        result = editor.edit(**fields, precision=precision, predicted_mask=False)
        mask = np.asarray(result.mask) > 0
        assert (mask >= before).all()
        assert (mask <= box).all()
        assert exactly is None or np.array_equal(mask, exactly)
        assert not (changed(result, fields["image"]) & ~mask).any()
        assert any(f"At precision {precision} the mask stands for" in note for note in result.notes) == bool(precision)
        before = mask if precision else before


def test_far_islands_become_boxes_of_their_own(editor: Editor, fields: dict[str, Any]) -> None:
    size = (400, 64)
    fields |= {"image": Image.new("RGB", size, "grey"), "mask": disc((20, 30), (380, 30), side=size)}
    mask = np.asarray(editor.edit(**fields, precision=4).mask) > 0
    assert mask.any(0).sum() < 50
    assert mask[mask.any(1)].shape[0] * 42 == mask.sum()


def test_what_the_model_does_not_draw_on_stays_the_source(editor: Editor, fields: dict[str, Any]) -> None:
    """Where its predicted mask is nowhere near, the latents are the source's, which the autoencoder gives back roughly."""
    denoiser: Any = editor.backbone.denoiser
    bias = denoiser.unet.conv_out.bias
    before = bias[4].clone()
    try:
        shares = []
        for shift in (-0.5, 0.5, 50.0):
            bias[4] = before + shift
            latents = next(iter(editor.sample(editor.prepare(make_request({**fields, "precision": 4})).samples)))
            source, _ = latents.window.encoder.of((0,))
            shares.append(float((latents.latents != source).any(1).float().mean()))
    finally:
        bias[4] = before
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1]
    assert shares[-1] == pytest.approx(float((latents.window.mask_latent > 0).float().mean()))


def test_a_mask_that_covers_all_at_its_precision_is_refused(editor: Editor, fields: dict[str, Any]) -> None:
    edges = np.zeros((SIDE, SIDE), np.uint8)
    edges[:20], edges[:, :20] = 255, 255
    fields["mask"] = Image.fromarray(edges)
    assert editor.edit(**fields, precision=0).images
    with pytest.raises(MaskError, match="At precision 4 the mask covers the whole image"):
        editor.edit(**fields, precision=4)
    with pytest.raises(OptionError, match="precision"):
        editor.edit(**fields, precision=5)


def test_other_methods_do_not_run_on_its_model(editor: Editor, fields: dict[str, Any]) -> None:
    for method in ("blended-latent-diffusion", "repaint", "attentive-eraser"):
        with pytest.raises(Unsupported, match="predicts the mask of what it draws: only smartbrush can"):
            editor.edit(**fields, method=method)
    with pytest.raises(OptionError, match=r"smartbrush has no task remove; it has: edit, shape"):
        editor.edit(**fields, method="smartbrush", task="remove")
    with pytest.raises(OptionError, match="smartbrush has no option soft_mask"):
        editor.edit(**fields, method="smartbrush", soft_mask=True)


def test_other_models_say_what_it_needs(tmp_path: Path, fields: dict[str, Any]) -> None:
    plain = Editor(str(tiny_models.tiny_sd1(tmp_path)), dtype="float32")
    with pytest.raises(Unsupported, match=r"smartbrush needs a model that reads the mask and its precision.*--model"):
        plain.edit(**fields, method="smartbrush")


def test_the_embedded_one_is_chosen_by_its_method(
    tmp_path: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_models.tiny_embedded(tmp_path / "weights")
    monkeypatch.setattr(hub, "WEIGHTS", weights)
    with pytest.raises(ModelNotFound, match="The weights of 'embedded-smartbrush' are missing"):
        Editor(method="smartbrush", dtype="float32").edit(**fields)
    network = widened(tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8))
    Adapter(network, base_digest(weights), 2).save(weights / "smartbrush")
    result = Editor(method="smartbrush", dtype="float32").edit(**fields, precision=3)
    assert result.request.model == "embedded-smartbrush"
    assert result.request.options["precision"] == 3


def test_predictions_do_not_depend_on_their_batch(editor: Editor, fields: dict[str, Any]) -> None:
    together = editor.edit(**{**fields, "n": 2}, precision=4)
    alone = editor.edit(**fields, precision=4, seed=1)
    pair = np.asarray(together.images[together.seeds.index(1)]).astype(int), np.asarray(alone.images[0]).astype(int)
    assert np.abs(pair[0] - pair[1]).max() <= 1  # a batch may round differently


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({"task": "shape", "prompt": "a red ball"}, "smartbrush"),
        ({"task": "shape", "prompt": "a red ball", "fitting": 0.5}, "powerpaint"),  # which alone has that option
        ({"task": "remove"}, "powerpaint"),
        ({"task": "remove", "prompt": "grass"}, "blended-latent-diffusion"),
        ({"task": "remove", "model": "embedded-fast"}, "blended-latent-diffusion"),
    ],
)
def test_the_embedded_model_has_a_version_for_a_task(fields: dict[str, Any], method: str, picture_file: Path) -> None:
    assert preferred(make_request({"image": picture_file, "box": (1, 1, 9, 9), **fields})) == method
