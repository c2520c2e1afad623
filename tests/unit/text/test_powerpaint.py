"""PowerPaint's prompts: what each task says, to the letter, and how learned vectors are put among the user's words."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel

from sfumato.methods import registry
from sfumato.text.chunks import Embedding, Token
from sfumato.text.clip import Encoder
from sfumato.text.grammar import Span
from sfumato.text.powerpaint import (
    CONTEXT,
    OBJECT,
    PLACEHOLDERS,
    PLAIN,
    SHAPE,
    V1,
    V2,
    V2_BASE,
    Around,
    TaskText,
    TaskWords,
    as_embeddings,
    flat,
    mixed,
    placeholder_first,
    splice,
)
from tests.tiny_models import TEXT_WIDTH, _text_config, clip_tokenizer, seeded

Q = ", worst quality, low quality, normal quality, bad quality, blurry "
TOKENIZER = clip_tokenizer()
LENGTH = 77


def learned(count: int = 10) -> tuple[Embedding, ...]:
    with seeded(3):
        return as_embeddings({token: torch.randn(count, TEXT_WIDTH) for token in PLACEHOLDERS}, Path("learned"))


def names(tokens: list[Token]) -> list[str]:
    """Letters, and placeholders with the number of the vector."""
    vectors = [token.vector and f"{PLACEHOLDERS[token.vector[0]]}_{token.vector[1]}" for token in tokens]
    return [name or TOKENIZER.convert_ids_to_tokens(token.id) for name, token in zip(vectors, tokens, strict=True)]


@pytest.mark.parametrize(
    ("task", "a", "b", "negative_a", "negative_b"),
    [
        ("edit", "p P_obj", "p P_obj", f"n{Q}P_obj", f"n{Q}P_obj"),
        ("shape", "p P_shape", "p P_ctxt", f"n{Q}P_shape", f"n{Q}P_ctxt"),
        ("remove", "empty scene blur p P_ctxt", "empty scene blur p P_ctxt", "n P_obj", "n P_obj"),
        ("outpaint", "empty scene blur p P_ctxt", "empty scene blur p P_ctxt", "n P_obj", "n P_obj"),
        ("fill", "p P_ctxt", "p P_ctxt", "n", "n"),
    ],
)
def test_the_first_version_says_what_its_demo_does(task: str, a: str, b: str, negative_a: str, negative_b: str) -> None:
    said = V1[task]
    assert (said.a.text("p"), said.b.text("p")) == (a, b)
    assert (said.negative_a.text("n"), said.negative_b.text("n")) == (negative_a, negative_b)


def test_nothing_is_trimmed() -> None:
    assert V1["edit"].negative_a.text() == ", worst quality, low quality, normal quality, bad quality, blurry P_obj"
    assert V1["remove"].a.text() == "empty scene blur  P_ctxt"


def test_the_second_version_tells_its_branch_the_placeholders_alone_and_the_base_the_rest() -> None:
    said = {task: [around.text() for around in vars(prompts).values()] for task, prompts in V2.items()}
    assert said["edit"] == [" P_obj"] * 4
    assert said["shape"] == [" P_shape", " P_ctxt", " P_shape", " P_ctxt"]
    assert said["remove"] == said["outpaint"] == [" P_ctxt", " P_ctxt", " P_obj", " P_obj"]
    base = {task: around.text("p") for task, around in V2_BASE.items()}
    assert base == {"edit": "p", "shape": "p", "fill": "p", "remove": "p empty scene blur", "outpaint": "p empty scene"}


def test_every_task_of_the_method_is_said() -> None:
    tasks = set(registry.get("powerpaint").tasks)
    assert tasks == set(V1) == set(V2) == set(V2_BASE) == set(PLAIN)


def test_the_later_training_says_the_placeholder_first() -> None:
    said = placeholder_first(V1)
    assert said["edit"].a.text("p") == "P_obj p"
    assert said["shape"].negative_b.text("n") == "P_ctxt n, worst quality, low quality, normal quality, bad quality, blurry"
    assert said["remove"].a.text("p") == "P_ctxt empty scene blur p"
    assert said["fill"].negative_a.text("n") == "n"


def test_vectors_stand_where_the_placeholder_is() -> None:
    made = splice(TOKENIZER, LENGTH, V1["edit"].a, [Span("red"), Span("ball", 1.3)], learned())
    assert names(made) == [*"re", "d</w>", *"bal", "l</w>", *(f"P_obj_{i}" for i in range(10))]
    assert [token.weight for token in made] == [1.0] * 3 + [1.3] * 4 + [1.0] * 10


def test_punctuation_is_read_together_with_what_follows() -> None:
    said = V1["edit"].negative_a
    plain = TOKENIZER(f"no!{Q}", add_special_tokens=False).input_ids
    assert [token.id for token in splice(TOKENIZER, LENGTH, said, [Span("no!")], learned())][: len(plain)] == plain


def test_the_users_words_are_cut_and_never_the_vectors() -> None:
    words = " ".join(["red"] * 30)
    for around in (V1["remove"].a, V1["edit"].negative_a, placeholder_first(V1)["shape"].a):
        made = splice(TOKENIZER, LENGTH, around, [Span(words)], learned())
        assert len(made) == LENGTH - 2
        token = next(token for token in PLACEHOLDERS if token in around.text())
        assert [name for name in names(made) if name.startswith("P_")] == [f"{token}_{i}" for i in range(10)]
        fixed = splice(TOKENIZER, LENGTH, around, [Span("")], learned())
        kept = len(made) - len(fixed)
        written = TOKENIZER(words, add_special_tokens=False).input_ids
        start = len(splice(TOKENIZER, LENGTH, Around(around.before), [Span("")], learned()))
        assert [token.id for token in made][start : start + kept] == written[:kept]


def test_states_are_those_of_a_table_with_further_rows() -> None:
    embeddings = learned(4)
    with seeded(1):
        model = CLIPTextModel(_text_config(len(TOKENIZER))).eval()
    text = TaskText(Encoder(TOKENIZER, model, 0, False, torch.device("cpu")), TaskWords(embeddings=embeddings, prompts=V1))
    made = text.encode(V1["shape"].b, [[Span("red")]])
    words = TOKENIZER("red", add_special_tokens=False).input_ids
    first = len(TOKENIZER) + 4 * PLACEHOLDERS.index(CONTEXT)
    ids = [TOKENIZER.bos_token_id, *words, *range(first, first + 4), TOKENIZER.eos_token_id]
    ids += [TOKENIZER.pad_token_id] * (LENGTH - len(ids))
    with torch.no_grad():
        model.resize_token_embeddings(len(TOKENIZER) + 12, mean_resizing=False)
        model.get_input_embeddings().weight[-12:] = torch.cat([embedding.vectors[0] for embedding in embeddings])
        expected = model(torch.tensor([ids]))[0]
    assert torch.equal(made, expected)


def test_what_is_cut_is_told() -> None:
    with seeded(1):
        model = CLIPTextModel(_text_config(len(TOKENIZER)))
    text = TaskText(Encoder(TOKENIZER, model, 0, False, torch.device("cpu")), TaskWords(embeddings=learned(), prompts=V1))
    reader, words = text.reader(V1["remove"].a), " ".join(["red"] * 25)  # 75 letters, and 14 + 10 places are taken
    assert reader.dropped("red " * 17) == ""
    assert reader.dropped(words) == " ".join(["red"] * 8)


def test_parts_of_a_prompt_are_one() -> None:
    assert flat([[Span("a"), Span("b", 2.0)], [Span("c")]]) == [Span("a"), Span("b", 2.0), Span(" "), Span("c")]


def test_the_fitting_degree_is_the_weight_of_a() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(mixed(a, b, 1.0), a)
    assert torch.equal(mixed(a, b, 0.0), b)
    assert torch.allclose(mixed(a, b, 0.25), b + 0.25 * (a - b), atol=1e-6)
    assert (SHAPE, OBJECT) == PLACEHOLDERS[1:]
