"""The prompts of a request: what the model and the CLIP models get, and notes about what was changed or cut."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

from sfumato.backbones.base import Backbone, Conditioning
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.families import family
from sfumato.backbones.lora import parse_lora
from sfumato.backbones.textual_inversion import read_embeddings
from sfumato.errors import OptionError, Unsupported
from sfumato.request import EditRequest
from sfumato.text import grammar
from sfumato.text.chunks import Embedding, as_word
from sfumato.text.clip import Parts
from sfumato.text.grammar import Span
from sfumato.text.limits import cut_notes


class ReadsParts(Protocol):
    """Additional interface of backbones that use CLIP's text encoders."""

    def text_widths(self) -> list[int]:
        """Of the vectors that each text encoder reads."""

    def encode_parts(
        self, prompt: Parts, negative: Parts, size: tuple[int, int], embeddings: Sequence[Embedding], clip_skip: int
    ) -> Conditioning:
        """Encode parsed prompts; see `StableDiffusion.encode_parts`."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The prompts for the models.

    Args:
        prompt, negative: As the model gets them, without tags; the guard is in the negative.
        words: The prompt without brackets and weights, for CLIPs that rank or guide.
        parts: Prompt and negative as parsed, for models that read by CLIP's text encoders.
        embeddings: Learned words.
        clip_skip: Layers left out.
        notes: What was read otherwise than it was written, or not at all.
    """

    prompt: str
    negative: str
    words: str
    parts: tuple[Parts, Parts] | None = None
    embeddings: tuple[Embedding, ...] = ()
    clip_skip: int = 0
    notes: tuple[str, ...] = ()

    def encode(self, backbone: Backbone, size: tuple[int, int]) -> Conditioning:
        """By the model's own text encoders; `size` is the window's (width, height)."""
        if self.parts is None:
            return backbone.encode_prompt(self.prompt, self.negative, size)
        return cast(ReadsParts, backbone).encode_parts(*self.parts, size, self.embeddings, self.clip_skip)


def read_texts(request: EditRequest, guard: str, backbone: Backbone, *, allow_pickle: bool = False) -> Texts:
    """Read a request's prompts for a model.

    Args:
        request: With its defaults filled in.
        guard: What is added to the negative prompt; empty for none.
        backbone: The model.
        allow_pickle: Whether embeddings may be pickles.

    Raises:
        Unsupported: Embeddings for a model that has no use for them.
        BackboneError, OptionError: See `read_embeddings`.
        OptionError: prompt-empty, if nothing but tags and brackets was written.
    """
    known = family(backbone.family)
    weighs = known.can(Capability.CLIP_TEXT)
    if request.embedding and not weighs:
        raise Unsupported(
            f"{backbone.name} ({backbone.family}) has no use for embedding: only Stable Diffusion 1.x, 2.x and XL have; "
            "leave it out."
        )
    prompt, prompt_tags = grammar.take_tags(request.prompt)
    own, own_tags = grammar.take_tags(request.negative_prompt or "")
    notes = _tag_notes(dict.fromkeys(prompt_tags + own_tags), request.lora)
    negative = ", ".join(part for part in (own, guard) if part)
    if request.negative_prompt and request.guidance_scale == 1.0:
        notes.append("The negative prompt does nothing at guidance_scale 1; raise it to use one.")
    if weighs:
        texts = _weighed(prompt, own, guard, request)
        _check_words(request.prompt, texts.words)
        embeddings: tuple[Embedding, ...] = ()
        if request.embedding:
            embeddings = read_embeddings(request.embedding, cast(ReadsParts, backbone).text_widths(), allow_pickle=allow_pickle)
            notes += _unused_notes(embeddings, texts)
        notes += texts.notes
        return replace(texts, negative=negative, embeddings=embeddings, clip_skip=request.clip_skip, notes=tuple(notes))
    _check_words(request.prompt, prompt)
    notes += _plain_notes(request, prompt, own, backbone)
    readers = backbone.text_readers() if known.can(Capability.TEXT) else []
    if guard and own and any(reader.dropped(negative) for reader in readers):
        negative = f"{guard}, {own}"  # what is cut must not be the guard
    used = {"prompt": prompt} | ({} if request.guidance_scale == 1.0 else {"negative prompt": negative})
    notes += cut_notes(readers, used)
    return Texts(prompt=prompt, negative=negative, words=prompt, notes=tuple(notes))


def _check_words(written: str, words: str) -> None:
    if written.strip() and not words.strip():  # an empty prompt is refused where the pictures are read
        raise OptionError(
            "The prompt has no words beside tags and brackets: say in words what should appear under the mask.",
            code="prompt-empty",
        )


def _weighed(prompt: str, negative: str, guard: str, request: EditRequest) -> Texts:
    """The prompts parsed, with notes of what is not done as the web UI does it; or plain, if the request says so."""
    if not request.prompt_weights:
        joined = ", ".join(part for part in (negative, guard) if part)
        return Texts(prompt=prompt, negative=joined, words=prompt, parts=([[Span(prompt)]], [[Span(joined)]]))
    notes: list[str] = []
    parsed = []
    for text in (prompt, negative):
        settled, found = grammar.settle(text)
        notes += [
            f"'{bracket}' changes the prompt during the steps in the web UI, which is not done here: read as '{read}' "
            "throughout; a weight is written (words:1.3)."
            for bracket, read in found
        ]
        if re.search(r"\bAND\b", settled) and not settled.isupper():
            notes.append("AND does not join prompts here as in the web UI: it is read as the word 'and'.")
        parts = grammar.parse(settled)
        weights = [f"'{span.text.strip()}' x {span.weight:.3g}" for part in parts for span in part if span.weight != 1.0]
        if weights and grammar.has_bare_brackets(settled):
            notes.append(
                f"Brackets were read as weights: {', '.join(weights)}; for plain ones write \\( and \\), or switch "
                "prompt_weights off (--no-prompt-weights)."
            )
        parsed.append(parts)
    return Texts(
        prompt=prompt,
        negative=negative,
        words=grammar.words(parsed[0]),
        parts=(parsed[0], _with_guard(parsed[1], guard)),
        notes=tuple(notes),
    )


def _with_guard(parts: Parts, guard: str) -> Parts:
    """The guard after the user's negative prompt, whose brackets cannot reach it."""
    if not guard:
        return parts
    *first, last = parts
    if not any(span.text for part in parts for span in part):
        return [[Span(guard)]]
    if last[-1].weight == 1.0:
        return [*first, [*last[:-1], Span(f"{last[-1].text}, {guard}")]]
    return [*first, [*last, Span(f", {guard}")]]


def _tag_notes(tags: Iterable[str], lora: Sequence[str]) -> list[str]:
    """Notes about tags such as `<lora:name:0.8>`."""
    given = {path.stem: scale for path, scale in map(parse_lora, lora)}
    notes = []
    for tag in tags:
        kind, name, *rest = tag[1:-1].split(":")
        scale = rest[0] if rest else "1"
        if kind.lower() not in ("lora", "lyco", "locon"):
            notes.append(f"'{tag}' was taken out of the prompt: such tags do nothing here.")
        elif name not in given:
            notes.append(
                f"'{tag}' was taken out of the prompt and nothing was loaded for it: give the file as "
                f"--lora {name}.safetensors:{scale} (in Python, the field lora)."
            )
        elif grammar.number(scale) != given[name]:
            notes.append(
                f"'{tag}' was taken out of the prompt: {name} was loaded with the scale that --lora says, {given[name]:g}."
            )
    return notes


def _unused_notes(embeddings: Sequence[Embedding], texts: Texts) -> list[str]:
    assert texts.parts
    text = " ".join(grammar.words(parts) for parts in texts.parts)
    return [
        f"The embedding '{embedding.path}' was not used: neither prompt says {' or '.join(map(repr, embedding.words))}."
        for embedding in embeddings
        if not any(re.search(as_word(word), text, re.IGNORECASE) for word in embedding.words)
    ]


def _plain_notes(request: EditRequest, prompt: str, negative: str, backbone: Backbone) -> list[str]:
    """Notes that a model without prompt weights reads brackets literally, and that one without CLIP skips no layers."""
    notes = []
    if request.clip_skip:  # clients of the web UI send it to every model
        notes.append(
            f"clip_skip={request.clip_skip} was ignored: {backbone.name} ({backbone.family}) has no use for it; only Stable "
            "Diffusion 1.x, 2.x and XL have."
        )
    if not request.prompt_weights or all(grammar.parse(text) == [[Span(text)]] for text in (prompt, negative)):
        return notes
    return [
        *notes,
        f"{backbone.name} ({backbone.family}) takes no weights: brackets, numbers in them and BREAK are read as plain text; only "
        "Stable Diffusion 1.x, 2.x and XL read them.",
    ]
