"""The prompts of a request: what the model and the CLIP models get, and notes about what was changed or cut."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sfumato.backbones.base import Backbone, TextEncoder, Traits, WeighingTextEncoder
from sfumato.backbones.lora import parse_lora
from sfumato.backbones.textual_inversion import read_embeddings
from sfumato.denoising.prompts import Texts
from sfumato.errors import OptionError, Unsupported
from sfumato.request import EditRequest
from sfumato.text import grammar
from sfumato.text.chunks import Embedding, as_word
from sfumato.text.clip import Parts
from sfumato.text.grammar import Span
from sfumato.text.limits import cut_notes
from sfumato.text.powerpaint import TaskPrompts


def read_texts(
    request: EditRequest, guard: str, backbone: Backbone, *, said: TaskPrompts | None = None, allow_pickle: bool = False
) -> Texts:
    """Read a request's prompts for a model.

    Args:
        request: With its defaults filled in.
        guard: What is added to the negative prompt; empty for none.
        backbone: The model.
        said: What the method says around them, of the model's learned words for tasks.
        allow_pickle: Whether embeddings may be pickles.

    Raises:
        Unsupported: Embeddings for a model that has no use for them.
        BackboneError, OptionError: See `read_embeddings`.
        OptionError: prompt-empty, if nothing but tags and brackets was written.
    """
    traits, encoder = backbone.traits, backbone.text_encoder
    if request.embedding and not isinstance(encoder, WeighingTextEncoder):
        raise Unsupported(
            f"{traits.name} ({traits.family}) has no use for embedding: only Stable Diffusion 1.x, 2.x and XL have; leave it out."
        )
    prompt, prompt_tags = grammar.take_tags(request.prompt)
    own, own_tags = grammar.take_tags(request.negative_prompt or "")
    notes = _tag_notes(dict.fromkeys(prompt_tags + own_tags), request.lora)
    negative = ", ".join(part for part in (own, guard) if part)
    if request.negative_prompt and request.guidance_scale == 1.0:
        notes.append("The negative prompt does nothing at guidance_scale 1; raise it to use one.")
    if isinstance(encoder, WeighingTextEncoder):
        texts = _weighed(prompt, own, guard, request)
        _check_words(request.prompt, texts.words)
        embeddings: tuple[Embedding, ...] = ()
        if request.embedding:
            embeddings = read_embeddings(request.embedding, encoder.text_widths(), allow_pickle=allow_pickle)
            notes += _unused_notes(embeddings, texts)
        notes += [*texts.notes, *_cut_notes(encoder, said, texts, request)]
        return replace(texts, negative=negative, embeddings=embeddings, clip_skip=request.clip_skip, notes=tuple(notes))
    _check_words(request.prompt, prompt)
    notes += _plain_notes(request, prompt, own, traits)
    readers = [] if encoder is None else encoder.text_readers()
    if guard and own and any(reader.dropped(negative) for reader in readers):
        negative = f"{guard}, {own}"  # what is cut must not be the guard
    texts = Texts(prompt=prompt, negative=negative, words=prompt)
    if said is not None:
        return replace(texts, notes=(*notes, *_cut_notes(encoder, said, texts, request)))
    used = {"prompt": prompt} | ({} if request.guidance_scale == 1.0 else {"negative prompt": negative})
    notes += cut_notes(readers, used)
    return replace(texts, notes=tuple(notes))


def _cut_notes(encoder: TextEncoder | None, said: TaskPrompts | None, texts: Texts, request: EditRequest) -> list[str]:
    """Notes about what is cut from prompts, because words of the task are read beside them in one piece."""
    if said is None or encoder is None or encoder.tasks is None:
        return []
    prompt, negative = map(grammar.words, texts.spans)
    notes = cut_notes([encoder.tasks.reader(said.a)], {"prompt": prompt})
    if request.guidance_scale != 1.0:
        notes += cut_notes([encoder.tasks.reader(said.negative_a)], {"negative prompt": negative})
    return notes


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


def _plain_notes(request: EditRequest, prompt: str, negative: str, traits: Traits) -> list[str]:
    """That a model without weights reads brackets as they stand, and one without CLIP's layers skips none."""
    notes = []
    if request.clip_skip:  # clients of the web UI send it to every model
        notes.append(
            f"clip_skip={request.clip_skip} was ignored: {traits.name} ({traits.family}) has no use for it; only Stable "
            "Diffusion 1.x, 2.x and XL have."
        )
    if not request.prompt_weights or all(grammar.parse(text) == [[Span(text)]] for text in (prompt, negative)):
        return notes
    return [
        *notes,
        f"{traits.name} ({traits.family}) takes no weights: brackets, numbers in them and BREAK are read as plain text; only "
        "Stable Diffusion 1.x, 2.x and XL read them.",
    ]
