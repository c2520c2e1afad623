"""The door: what an edit promises whatever the model, on tiny random Stable Diffusion models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sfumato import Editor, EditRequest, ranking
from sfumato.backbones.families import family
from sfumato.background import fitting
from sfumato.editing.sampling import Progress
from sfumato.errors import Cancelled, EditError, MaskError, ModelNotFound, OptionError, ResourceError, Unsupported
from sfumato.methods import registry
from sfumato.perception import clip
from tests.guided import Calling


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def test_only_what_is_under_the_mask_changes(editor: Editor, request_fields: dict[str, Any]) -> None:
    result = editor.edit(**request_fields)
    source, mask = pixels(Image.open(request_fields["image"])), np.asarray(result.mask) > 0
    for image in result.images:
        assert np.array_equal(pixels(image)[~mask], source[~mask])
        assert np.abs(pixels(image)[mask] - source[mask]).mean() > 3


@pytest.mark.parametrize("background", ["latents", "none"])
def test_keep_unmasked_off_shows_the_raw_window(editor: Editor, request_fields: dict[str, Any], background: str) -> None:
    raw = editor.edit(**{**request_fields, "keep_unmasked": False, "window": "whole"} | {"background": background, "n": 1})
    source, mask = pixels(Image.open(request_fields["image"])), np.asarray(raw.mask) > 0
    assert not np.array_equal(pixels(raw.images[0])[~mask], source[~mask])


def test_result_is_ordered_by_score_and_complete(editor: Editor, request_fields: dict[str, Any]) -> None:
    result = editor.edit(**{**request_fields, "n": 3, "seed": 40})
    totals = [score["total"] for score in result.scores]
    assert totals == sorted(totals, reverse=True)
    assert sorted(result.seeds) == [40, 41, 42]
    assert {"load", "encode", "denoise", "background", "rank"} <= set(result.timings)
    resolved = result.request.model_dump()
    open_fields = {"box", "mask", "scribble", "size", "start_sigma", "mask_feather", "negative_prompt", "guidance_embedding"}
    open_fields |= {"expand", "mask_grow", "guidance_interval", "step_cache", "candidates"}
    own = registry.fields_of(registry.get("blended-latent-diffusion"))
    open_fields |= {"vae", "prediction_type", "branch"} | registry.method_fields() - set(own)
    assert not [name for name, value in resolved.items() if value is None and name not in open_fields]


def test_a_thin_stroke_or_a_new_background_is_pasted_and_ranked_by_its_prompt(
    editor: Editor, request_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poisson would give a stroke or what surrounds a kept thing the colours of before, the seam would choose the faintest."""
    fields = {**request_fields, "background": None, "rank": "both"}
    stroke = np.zeros(pixels(Image.open(request_fields["image"])).shape[:2], np.uint8)
    stroke[len(stroke) // 2, 4:-4] = 255
    modes: list[str] = []
    ranked = ranking.rank

    def rank(*arguments: Any) -> list[ranking.Score]:
        modes.append(arguments[5])
        return ranked(*arguments)

    monkeypatch.setattr(ranking, "rank", rank)
    thick = editor.edit(**fields)
    thin = editor.edit(**{**fields, "mask": Image.fromarray(stroke)})
    assert (thick.request.background, thin.request.background) == ("matte", "paste")
    chosen = editor.edit(**{**fields, "mask": Image.fromarray(stroke), "background": "poisson"})
    assert chosen.request.background == "poisson"
    assert modes[0] == "both"
    with_ranker = Editor(str(editor.model), dtype="float32", ranker="embedded")
    with_ranker.edit(**{**fields, "mask": Image.fromarray(stroke)})
    kept = with_ranker.edit(**{**fields, "invert_mask": True})
    turned = with_ranker.edit(**{**fields, "mask": ImageOps.invert(Image.open(fields["mask"]).convert("L")), "invert_mask": True})
    assert (kept.request.background, turned.request.background) == ("paste", "matte")  # white may mean what is to stay
    assert modes[1:] == ["both", "both", "region", "region", "both"]  # without a ranking model there is only the whole picture


def test_no_old_background_is_left_around_what_an_inverted_mask_keeps(editor: Editor, request_fields: dict[str, Any]) -> None:
    sharp, soft, suited = (
        pixels(editor.edit(**request_fields, invert_mask=True, mask_feather=width).images[0]) for width in (1.0, 6.0, None)
    )
    assert np.array_equal(suited, sharp)
    assert not np.array_equal(suited, soft)


def test_same_request_same_pixels_whatever_the_batch(editor: Editor, request_fields: dict[str, Any]) -> None:
    together = editor.edit(**{**request_fields, "n": 3, "rank": "none"})
    apart = editor.edit(**{**request_fields, "n": 3, "rank": "none", "batch_size": 1})
    alone = editor.edit(**{**request_fields, "n": 1, "rank": "none", "seed": 2})
    for one, other in [*zip(together.images, apart.images, strict=True), (together.images[2], alone.images[0])]:
        assert np.abs(pixels(one) - pixels(other)).max() <= 1  # convolutions round differently by batch size


def test_asking_for_previews_changes_nothing(editor: Editor, request_fields: dict[str, Any]) -> None:
    shown: list[Image.Image] = []

    def look(progress: Progress) -> None:
        if progress.preview is not None:
            shown.append(progress.preview())

    watched = editor.edit(**request_fields, on_progress=look)
    plain = editor.edit(**request_fields)
    assert len(shown) == 3
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(watched.images, plain.images, strict=True))


def test_progress_counts_to_its_total(editor: Editor, request_fields: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    editor.edit(
        **{**request_fields, "n": 3, "batch_size": 2},
        on_progress=lambda p: seen.append((p.step, p.total)) if p.stage == "denoise" else None,
    )
    assert [step for step, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_cancelling_leaves_the_editor_usable(editor: Editor, request_fields: dict[str, Any]) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "denoise":
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        editor.edit(**request_fields, on_progress=stop)
    assert len(editor.edit(**request_fields).images) == 2


def test_weights_are_as_before_after_decoder_tuning(
    editor: Editor, request_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "STEPS", 5)
    before = {k: v.clone() for k, v in editor.backbone.autoencoder.vae.state_dict().items()}
    for background in ("decoder-solve", "decoder", "latents"):
        editor.edit(**{**request_fields, "background": background, "n": 1, "steps": 1})
    assert all(torch.equal(v, before[k]) for k, v in editor.backbone.autoencoder.vae.state_dict().items())


def test_out_of_memory_halves_the_batch(editor: Editor, request_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def limited(denoiser: Any, x: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(x) // 2)  # both branches of guidance
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoiser(x, *rest)

    monkeypatch.setattr(editor, "accelerators", (Calling(limited),))
    result = editor.edit(**{**request_fields, "n": 4})
    assert sizes[:3] == [4, 2, 1]
    assert len(result.images) == 4
    assert result.request.batch_size == 1
    assert any("Memory ran out" in note for note in result.notes)


def test_ranking_does_not_depend_on_earlier_edits(
    folder: Path, request_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class ByBrightness:
        def embed_images(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.mean((1, 2, 3))
            return torch.stack([mean.cos(), mean.sin()], dim=1)

        def embed_text(self, prompts: list[str]) -> torch.Tensor:
            return torch.tensor([[0.0, 1.0]]).repeat(len(prompts), 1)

    monkeypatch.setattr(clip, "load_scorer", lambda *_: ByBrightness())
    editor = Editor(str(folder), dtype="float32")
    before = editor.edit(**request_fields).scores
    editor.edit(**{**request_fields, "rank": "both"})
    assert editor.edit(**request_fields).scores == before


def test_out_of_memory_with_one_prediction_says_what_to_do(
    editor: Editor, request_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(editor, "accelerators", (Calling(never),))
    with pytest.raises(ResourceError, match="smaller") as raised:
        editor.edit(**request_fields)
    assert raised.value.code == "out-of-memory"


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(editor: Editor, request_fields: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFound):
        editor.edit(EditRequest(**request_fields, model="no/such-model"))
    assert len(editor.edit(**request_fields).images) == 2


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"prompt": "  "}, OptionError, "prompt-empty"),
        ({"colour": "red"}, OptionError, "option-unknown"),
        ({"n": 0}, OptionError, "option-invalid"),
        ({"method": "none-such"}, OptionError, "method-unknown"),
        ({"preset": "none-such"}, OptionError, "preset-unknown"),
        ({"scheduler": "none-such"}, OptionError, "scheduler-unknown"),
        ({"mask": None, "box": (0, 0, 48, 32)}, MaskError, "mask-full"),
        ({"mask": None}, MaskError, "mask-missing"),
        ({"rank": "region"}, ModelNotFound, "model-not-cached"),
    ],
)
def test_refusals(
    editor: Editor, request_fields: dict[str, Any], change: dict[str, Any], error: type[EditError], code: str
) -> None:
    with pytest.raises(error) as raised:
        editor.edit(**{**request_fields, **change})
    assert raised.value.code == code


def test_a_method_refuses_models_it_cannot_run_on(
    editor: Editor, request_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel: Any = replace(editor.backbone.traits, family="pixel", capabilities=family("pixel").capabilities)
    monkeypatch.setattr(editor.backbone.denoiser, "traits", pixel)
    with pytest.raises(Unsupported, match="sdxl"):
        editor.edit(**request_fields)


def test_scribble_and_fill_change_what_the_edit_starts_from(editor: Editor, request_fields: dict[str, Any]) -> None:
    late = {**request_fields, "n": 1, "steps": 10, "start_fraction": 0.9}
    plain = editor.edit(**late)
    blank = editor.edit(**late, fill="neutral")
    layer = Image.new("RGBA", (48, 32), (255, 0, 0, 255))
    painted = editor.edit(**late, scribble=layer)
    assert not np.array_equal(pixels(plain.images[0]), pixels(blank.images[0]))
    assert not np.array_equal(pixels(plain.images[0]), pixels(painted.images[0]))


def test_the_guard_against_letters_can_be_switched_off(editor: Editor, request_fields: dict[str, Any]) -> None:
    guarded, free = editor.edit(**request_fields), editor.edit(**request_fields, guard=False)
    assert not np.array_equal(pixels(guarded.images[0]), pixels(free.images[0]))


def test_size_gives_the_output_that_size(editor: Editor, request_fields: dict[str, Any]) -> None:
    result = editor.edit(**request_fields, size=(96, 64))
    assert result.images[0].size == (96, 64)
    assert np.asarray(result.mask).shape == (64, 96)


def test_around_a_loaded_pipeline(folder: Path, request_fields: dict[str, Any]) -> None:
    from diffusers import StableDiffusionPipeline

    editor = Editor.from_pipe(StableDiffusionPipeline.from_pretrained(folder, safety_checker=None))
    assert len(editor.edit(**request_fields).images) == 2
