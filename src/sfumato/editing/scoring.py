"""The CLIP models of an editor: for ranking predictions and for guiding sampling."""

from typing import Literal

import numpy as np
import torch

from sfumato import ranking
from sfumato.backbones.families import family
from sfumato.editing import tasks
from sfumato.editing.prepared import Prepared
from sfumato.editing.resolving import Resolved
from sfumato.errors import BackboneError
from sfumato.methods.base import Guide, PictureDistance
from sfumato.metrics.diversity import guiding_lpips
from sfumato.perception import clip
from sfumato.pictures.samples import narrow
from sfumato.pictures.tensors import to_uint8
from sfumato.pictures.transparency import flattened
from sfumato.ranking import Score
from sfumato.request import EditRequest


class Scorers:
    """CLIP models of one editor, loaded on first use and kept; one that ranks and guides is loaded once.

    Args:
        ranker: Name of the ranking model; by default the one of the model's family.
        device: Device that they run on.
    """

    def __init__(self, ranker: str | None, device: torch.device) -> None:
        self._ranker, self._device = ranker, device
        self.ranking: clip.Scorer | None = None
        self._ranking_name, self._guiding_name = "", ""
        self._guiding: clip.Scorer | None = None
        self._lpips: PictureDistance | None = None

    def forget(self) -> None:
        """Drop the ranking model, whose default depends on the edited model's family."""
        self.ranking = None

    def guide(self, resolved: Resolved) -> Guide:
        """The guiding CLIP and its embedding of the prompt; LPIPS too if the options use it.

        Raises:
            BackboneError: The CLIP or LPIPS is absent or not supported.
        """
        name = str(resolved.options.clip_model)
        if resolved.options.background_lpips_weight and self._lpips is None:
            self._lpips = guiding_lpips(self._device)
        self._guiding, self._guiding_name = self._clip(name), name
        return Guide(scorer=self._guiding, text=self._guiding.embed_text([resolved.texts.words]), lpips=self._lpips)

    def _clip(self, name: str) -> clip.Scorer:
        """A CLIP by its name: the one that guides or ranks already, or loaded."""
        for known, scorer in ((self._guiding_name, self._guiding), (self._ranking_name, self.ranking)):
            if scorer is not None and known == name:
                return scorer
        with torch.inference_mode(False):  # the weights of what guides take part in gradients
            return clip.load_scorer(name, self._device)

    def rank(self, edit: Prepared, request: EditRequest, windows: list[np.ndarray], notes: list[str]) -> list[Score]:
        """Scores of the predictions, best first; empty if the request asks for no ranking.

        Args:
            edit: The edit.
            request: Its request with all defaults filled in.
            windows: Predictions in each window, (n, h, w, 3 or 4) uint8 or uint16.
            notes: Notes for the user are appended.

        Raises:
            BackboneError: The ranking model is absent, and it was named or rank is "region".
        """
        if request.rank == "none":
            return []
        scorer = self._ranking_scorer(edit, request.rank, notes) if tasks.has_words(request) else None
        parts = [window.inputs for window in edit.windows]
        # judged by its border, the best stroke would be the least visible one
        informative = all(part.seam_informative for part in parts)
        by_prompt = not informative and request.rank == "both" and scorer is not None
        mode: Literal["both", "region", "whole"] = "region" if by_prompt else request.rank
        words, scores = edit.resolved.texts.words, []
        for part, made in zip(parts, windows, strict=True):
            mask, source = part.mask_pixels[0, 0].numpy().astype(np.uint8), to_uint8(part.pixels[0])
            scores.append(ranking.rank(flattened(narrow(made), source), source, mask, words, scorer, mode))
        return average_scores(scores)

    def _ranking_scorer(self, edit: Prepared, mode: str, notes: list[str]) -> clip.Scorer | None:
        if self.ranking is None:
            self.ranking, note = self._load(edit, mode)
            notes += note
        return self.ranking

    def _load(self, edit: Prepared, mode: str) -> tuple[clip.Scorer | None, list[str]]:
        """The ranking model and notes. None if the family's default is absent: ranking then uses the whole picture alone."""
        suited = family(edit.backbone.traits.family).clip
        self._ranking_name = self._ranker or suited
        if self._ranker is not None or suited == "embedded":
            return self._clip(self._ranking_name), []
        try:
            return self._clip(suited), []
        except BackboneError as error:
            if mode == "region":
                raise
            return None, [f"Ranked without reading the prompt: {error.message}"]


def average_scores(windows: list[list[Score]]) -> list[Score]:
    """Scores of whole predictions, best first: the mean of each score over the windows; ties keep the order of the seeds.

    Args:
        windows: For each window, the scores of all its predictions, in any order.
    """
    if len(windows) == 1:
        return windows[0]
    together = []
    for several in zip(*(sorted(scores, key=lambda score: score.index) for scores in windows), strict=True):
        parts = [score.as_dict() for score in several]
        mean = {name: round(sum(part[name] for part in parts) / len(parts), 9) for name in parts[0]}
        together.append(Score(index=several[0].index, region=mean.get("region"), whole=mean.get("whole"), total=mean["total"]))
    return sorted(together, key=lambda score: (-score.total, score.index))
