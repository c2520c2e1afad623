"""Aggregation of per-edit metrics: means with confidence intervals, and paired differences between variants."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.metrics.statistics import Estimate, estimate, paired_difference

EVERY_TASK = "all"


@dataclass(frozen=True)
class Metric:
    """Presentation of a metric: a short title, decimals, and its meaning; and whether it is of the raw picture.

    The raw picture is what the method's loop made and the decoder decoded; the blended one has the source's pixels around it.
    """

    title: str
    decimals: int
    about: str
    raw: bool = False

    @property
    def picture(self) -> str:
        """Which picture was measured, as a column of the results: "raw" or "blended"."""
        return "raw" if self.raw else "blended"


METRICS: dict[str, Metric] = {
    "precision_first": Metric(
        "precision, first", 2, "share of examples whose first-ranked prediction shows all that was asked for"
    ),
    "precision_all": Metric("precision, all", 2, "the same of all predictions: what ranking adds is the difference"),
    "kind_first": Metric("kind", 2, "share of first-ranked predictions of the right kind"),
    "colour_first": Metric("colour", 2, "the same of colour"),
    "material_first": Metric("material", 2, "the same of material, where the prompt names one"),
    "ground_first": Metric("ground", 2, "the same of the ground"),
    "diversity": Metric("diversity", 3, "mean pairwise perceptual distance of the right predictions"),
    "background_max": Metric("background, max", 0, "largest error outside the mask, in 8-bit levels, as the user gets it"),
    "background_psnr": Metric("background, dB", 1, "PSNR outside the mask as the user gets it; 100 is equal"),
    "background_max_raw": Metric("raw background, max", 0, "the same before any pasting", raw=True),
    "background_psnr_raw": Metric(
        "raw background, dB", 1, "PSNR outside the mask, in the model's window, before any pasting", raw=True
    ),
    "seam_ratio": Metric("seam", 2, "steepness across the mask's border against the source's; 1 is as smooth"),
    "seam_ratio_raw": Metric("raw seam", 2, "the same before any pasting: how well the loop itself joins", raw=True),
    "seam_elsewhere": Metric("seam, elsewhere", 2, "the same against the same outline at random places of the result"),
    "texture_ratio": Metric(
        "texture",
        2,
        "grain just inside the mask against just outside, over the same of the true picture; less than 1 is too smooth",
    ),
    "texture_ratio_raw": Metric("raw texture", 2, "the same before any pasting: both sides are decoded", raw=True),
    "shape_iou": Metric("shape, IoU", 2, "overlap of what was changed and the mask, the thing's exact outline; 1 fills it"),
    "counterfactual_psnr": Metric("truth, dB", 1, "PSNR under the mask against the true picture"),
    "text_match": Metric("text match", 3, "cosine of the prompt and the region, by the ranker"),
    "clip_score": Metric("CLIP", 2, "100 times the cosine of the prompt and the whole picture"),
    "clip_r_precision": Metric("CLIP R-precision", 2, "share of pictures that fit their own prompt best of all"),
    "lpips_kept": Metric("LPIPS kept", 2, "1000 times the LPIPS (squeeze) of the kept part", raw=True),
    "mse_kept": Metric("MSE kept", 2, "1000 times the squared error of the kept part, summed over colours, per pixel", raw=True),
    "psnr_kept": Metric("PSNR kept", 2, "of that squared error", raw=True),
    "image_reward": Metric("ImageReward", 2, "10 times ImageReward-v1.0"),
    "hps": Metric("HPS", 2, "100 times HPS v2.1"),
    "aesthetic": Metric("aesthetic", 2, "LAION's linear head on CLIP ViT-L/14"),
    "seconds": Metric("seconds", 2, "of an edit, all its predictions"),
    "cpu_seconds": Metric("CPU seconds", 2, "processor time of an edit; other work on the machine changes it least"),
    "model_calls": Metric("model calls", 0, "calls of the denoiser in an edit"),
    "peak_memory_mb": Metric("memory, MiB", 0, "most memory held during an edit"),
}


def tidy(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per task, method, model and metric: the picture it is of, the mean over examples and its 95 % interval.

    Args:
        items: With task, method, model and values (metric to number or None), and the variant's name where it has one.
    """
    groups: dict[tuple[str, str, str], list[dict[str, float | None]]] = {}
    items = list(items)
    for item in items:
        groups.setdefault((item["task"], item["method"], item["model"]), []).append(item["values"])
    names, rows = names_of(items), []
    for (task, method, model), values in groups.items():
        for metric, shown in METRICS.items():
            numbers = [number for each in values if (number := each.get(metric)) is not None]
            if numbers:
                row = {"task": task, **names[method, model], "method": method, "model": model, "metric": metric}
                rows.append(row | {"picture": shown.picture} | _columns(estimate(numbers)))
    return rows


def compare(items: Sequence[dict[str, Any]], keys: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Every variant against the first, on the same examples, per task and over all tasks.

    Args:
        items: As `tidy`, with the example's name.
        keys: (method, model) of the variants, the one to compare with first.

    Returns:
        Rows with task, metric, picture, variant, method, model, against, difference, ci_low, ci_high, n and exceeds_noise:
        whether the interval of the paired differences leaves out zero.
    """
    by_key: dict[tuple[str, str], dict[str, dict[str, Any]]] = {key: {} for key in keys}
    for item in items:
        by_key[item["method"], item["model"]][item["name"]] = item
    base, *others = keys
    named, rows = names_of(items), []
    for key in others:
        names = [name for name in by_key[base] if name in by_key[key]]
        tasks = list(dict.fromkeys(by_key[base][name]["task"] for name in names))
        for task in [*tasks, *([EVERY_TASK] if len(tasks) > 1 else [])]:
            chosen = [name for name in names if task in (EVERY_TASK, by_key[base][name]["task"])]
            for metric, shown in METRICS.items():
                first, second = ([by_key[k][name]["values"].get(metric) for name in chosen] for k in (base, key))
                difference = paired_difference(first, second)
                if difference is not None:
                    rows.append(
                        {"task": task, "metric": metric, "picture": shown.picture, **named.get(key, {})}
                        | {"method": key[0], "model": key[1], "against": list(base)}
                        | {"difference": difference.value, "ci_low": difference.low, "ci_high": difference.high}
                        | {"n": difference.n, "exceeds_noise": difference.excludes_zero}
                    )
    return rows


def names_of(items: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
    """The name that each variant was given, as a column, by method and model; earlier versions recorded none."""
    return {(item["method"], item["model"]): {key: item[key] for key in ("variant",) if key in item} for item in items}


def _columns(estimated: Estimate) -> dict[str, Any]:
    return {"value": estimated.value, "ci_low": estimated.low, "ci_high": estimated.high, "n": estimated.n}
