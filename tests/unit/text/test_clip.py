"""States of long, weighted and learned prompts, against the arithmetic written out and against diffusers."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from sfumato.backbones.base import Text
from sfumato.backbones.loading import from_pipe
from sfumato.errors import OptionError
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Parts
from sfumato.text.grammar import parse
from tests import tiny_models

BUILDERS = {"sd1": tiny_models.tiny_sd1, "sd2": tiny_models.tiny_sd2_v, "sdxl": tiny_models.tiny_sdxl}
LONG = (
    "the quick brown fox jumps over the lazy dog while seventy five letters are not enough for it all"  # its tokens are letters
)


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("models")
    kinds = {"sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
    return {family: kinds[family].from_pretrained(build(root / family)) for family, build in BUILDERS.items()}


@pytest.fixture(params=list(BUILDERS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def joined(texts: list[Text]) -> Text:
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return Text(states=torch.cat([text.states for text in texts]), pooled=torch.cat(pooled) if pooled else None)


def encode(model: Any, prompt: str, negative: str) -> Text:
    """Both texts, the negative first; an empty negative is no prompt."""
    return joined(model.text_encoder.encode([negative or None, prompt]))


def encode_parts(model: Any, prompt: Parts, negative: Parts, *more: Any) -> Text:
    return joined(model.text_encoder.encode_parts([negative, prompt], *more))


def pooled_of(text: Text) -> Tensor:
    assert text.pooled is not None
    return text.pooled


def encoders(pipe: Any) -> list[tuple[Any, Any]]:
    """Tokenizers and text encoders of a pipeline."""
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    return [*pairs, (pipe.tokenizer_2, pipe.text_encoder_2)] if hasattr(pipe, "text_encoder_2") else pairs


@torch.no_grad()
def read(pipe: Any, ids: list[int], layer: int | None = None) -> Tensor:
    """States of one chunk: BOS, the ids, EOS and padding up to 77 tokens."""
    states = []
    for tokenizer, encoder in encoders(pipe):
        row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        row += [tokenizer.pad_token_id] * (77 - len(row))
        output = encoder(torch.tensor([row]), output_hidden_states=True)
        states.append(output.hidden_states[-2] if hasattr(pipe, "text_encoder_2") else output.last_hidden_state)
    return torch.cat(states, -1)


def letters(pipe: Any, text: str) -> list[int]:
    return list(pipe.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


@pytest.mark.parametrize(("prompt", "negative"), [("a red ball", "grass"), ("x" * 75, "a (b) [c]"), ("a", ""), ("", "")])
def test_prompts_that_fit_are_encoded_as_diffusers_does_bit_for_bit(
    pipes: dict[str, Any], family: str, prompt: str, negative: str
) -> None:
    pipe = pipes[family]
    got = encode(from_pipe(pipe), prompt, negative)
    if family != "sdxl":
        conditional, unconditional = pipe.encode_prompt(prompt, "cpu", 1, True, negative)
    else:
        conditional, unconditional, pooled, unpooled = pipe.encode_prompt(prompt, negative_prompt=negative or None)
        assert torch.equal(pooled_of(got), torch.cat([unpooled, pooled]))
    assert torch.equal(got.states, torch.cat([unconditional, conditional]))


@pytest.mark.parametrize("prompt", ["a red ball", "x" * 75])
def test_texts_are_filled_up_with_the_tokenizers_own_padding(tmp_path: Path, prompt: str) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_models.tiny_sdxl(tmp_path))
    pipe.tokenizer_2.pad_token = "!"  # as SDXL's second tokenizer and that of 2.x have it
    conditional, unconditional, pooled, _ = pipe.encode_prompt(prompt, negative_prompt="grass")
    got = encode(from_pipe(pipe), prompt, "grass")
    assert torch.equal(got.states, torch.cat([unconditional, conditional]))
    assert torch.equal(pooled_of(got)[1:], pooled)
    same = encode(from_pipe(StableDiffusionXLPipeline.from_pretrained(tmp_path)), prompt, "grass")
    assert torch.equal(same.states[1], got.states[1]) == (len(prompt) == 75)


def test_long_prompts_are_chunks_side_by_side(pipes: dict[str, Any], family: str) -> None:
    pipe = pipes[family]
    ids = letters(pipe, LONG)
    assert len(ids) == 78
    negative = letters(pipe, "grass")

    got = encode(from_pipe(pipe), LONG, "grass")

    expected = torch.cat([read(pipe, ids[:75]), read(pipe, ids[75:])], 1)
    assert torch.equal(got.states[1:], expected)
    assert torch.equal(got.states[:1], torch.cat([read(pipe, negative), read(pipe, [])], 1))


def test_a_long_negative_prompt_lengthens_the_prompt(pipes: dict[str, Any], family: str) -> None:
    got = encode(from_pipe(pipes[family]), "a", LONG * 3)
    assert got.states.shape[1] == 4 * 77
    empty = read(pipes[family], [])
    assert torch.equal(got.states[1:], torch.cat([read(pipes[family], letters(pipes[family], "a")), empty, empty, empty], 1))


def test_a_prompt_without_end_is_refused(pipes: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="7501 tokens is too long; at most 100 chunks of 75"):
        encode(from_pipe(pipes["sd1"]), "a" * 7501, "")


def test_sdxl_pools_the_first_chunk_and_zeroes_an_empty_negative_prompt(pipes: dict[str, Any]) -> None:
    pipe = pipes["sdxl"]
    got = encode(from_pipe(pipe), LONG, "")
    _, _, pooled, _ = pipe.encode_prompt(LONG[: LONG.index("for") + 3])  # words of 72 tokens
    first = [letters(pipe, LONG)[:75]]
    row = torch.tensor([[pipe.tokenizer_2.bos_token_id, *first[0], pipe.tokenizer_2.eos_token_id]])
    with torch.no_grad():
        expected = pipe.text_encoder_2(row).text_embeds
    assert torch.equal(pooled_of(got), torch.cat([torch.zeros_like(expected), expected]))
    assert not torch.equal(pooled, expected)
    assert got.states.shape == (2, 154, 64)
    assert got.states[0].abs().max() == 0


def test_break_begins_a_chunk(pipes: dict[str, Any], family: str) -> None:
    pipe = pipes[family]
    got: Any = from_pipe(pipe)
    states = encode_parts(got, parse("red BREAK blue"), parse("x")).states
    assert torch.equal(states[1:], torch.cat([read(pipe, letters(pipe, "red")), read(pipe, letters(pipe, "blue"))], 1))


def test_weights_scale_states_and_keep_their_mean(pipes: dict[str, Any], family: str) -> None:
    pipe = copy.deepcopy(pipes[family])
    for _, encoder in encoders(pipe):
        for name, parameter in encoder.named_parameters():
            parameter.data += 0.2 * name.endswith(("final_layer_norm.bias", "mlp.fc2.bias"))  # untrained, the mean would be 0
    model: Any = from_pipe(pipe)
    ids = letters(pipe, "a red ball")
    got = encode_parts(model, parse("a (red:1.5) [ball]"), parse("(x:1.2)"))

    widths = [encoder.config.hidden_size for _, encoder in encoders(pipe)]
    expected = []
    for states in read(pipe, ids).split(widths, -1):
        weighted = states.clone()
        weighted[:, 2:5] *= 1.5
        weighted[:, 5:9] /= 1.1
        expected.append(weighted * (states.mean() / weighted.mean()))
        assert abs(states.mean() / weighted.mean() - 1) > 1e-3
    torch.testing.assert_close(got.states[1:], torch.cat(expected, -1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got.states[1:], read(pipe, ids), atol=1e-3)
    assert not torch.allclose(got.states[:1], read(pipe, letters(pipe, "x")), atol=1e-4)


def test_a_mean_that_is_only_rounding_is_not_kept(pipes: dict[str, Any]) -> None:
    pipe = pipes["sd1"]
    states = read(pipe, letters(pipe, "a b"))  # fresh from a layer norm: of mean 0
    model: Any = from_pipe(pipe)
    expected = states.clone()
    expected[:, 2] *= 2
    torch.testing.assert_close(encode_parts(model, parse("a (b:2)"), parse("")).states[1:], expected)


def test_weights_of_one_change_no_bit(pipes: dict[str, Any], family: str) -> None:
    model: Any = from_pipe(pipes[family])
    plain = encode(model, "a red ball", "grass")
    weighted = encode_parts(model, parse("a (red:1.0) ball"), parse("(grass:1)"))
    assert torch.equal(plain.states, weighted.states)


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_that_of_diffusers_for_both_branches(pipes: dict[str, Any], family: str, skip: int) -> None:
    pipe = pipes[family]
    model: Any = from_pipe(pipe)
    if (family, skip) in {("sdxl", 1), ("sdxl", 2), ("sd1", 2), ("sd2", 2)}:  # of two layers, SDXL leaves one out itself
        with pytest.raises(OptionError, match="at most"):
            encode_parts(model, parse("a"), parse("b"), (), skip)
        return
    got = encode_parts(model, parse("a red ball"), parse("grass"), (), skip)
    ids = pipe.tokenizer(["grass", "a red ball"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():  # as diffusers' encode_prompt, which reads a name that transformers 5 has not
        hidden = torch.cat([pipe.text_encoder(row[None], output_hidden_states=True).hidden_states[-(skip + 1)] for row in ids])
        norm = getattr(pipe.text_encoder, "text_model", pipe.text_encoder).final_layer_norm
        assert torch.equal(got.states, norm(hidden))
    assert not torch.allclose(got.states, encode(model, "a red ball", "grass").states)


def test_clip_skip_of_sdxl_counts_from_the_layer_before_the_last() -> None:
    with tiny_models.seeded(9):
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        config = tiny_models._text_config(len(tiny_models.clip_tokenizer()), projection_dim=32, num_hidden_layers=4)
        first, second = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
    parts = {"vae": tiny_models.tiny_vae(), "unet": xl_unet(), "scheduler": tiny_models._scheduler()}
    texts = {"text_encoder": first, "text_encoder_2": second}
    pipe: Any = StableDiffusionXLPipeline(
        **parts, **texts, tokenizer=tiny_models.clip_tokenizer(), tokenizer_2=tiny_models.clip_tokenizer(), add_watermarker=False
    )
    model: Any = from_pipe(pipe)
    for skip in (1, 2):
        expected, _, pooled, _ = pipe.encode_prompt("a red ball", clip_skip=skip)
        got = encode_parts(model, parse("a red ball"), parse("x"), (), skip)
        assert torch.equal(got.states[1:], expected)
        assert torch.equal(pooled_of(got)[1:], pooled)


def xl_unet() -> Any:
    options = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
    return tiny_models.tiny_unet(use_linear_projection=True, cross_attention_dim=64, **options)


def test_learned_vectors_give_the_states_of_a_pipeline_that_loaded_them(tmp_path: Path) -> None:
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    folder = tiny_models.tiny_sd1(tmp_path)
    pipe, loaded = (StableDiffusionPipeline.from_pretrained(folder) for _ in range(2))
    loaded.load_textual_inversion({"zoe": vectors})
    expected, negative = loaded.encode_prompt("a zoe, red", "cpu", 1, True, "zoe")
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    words = len(pipe.tokenizer)

    model: Any = from_pipe(pipe)
    embedding = Embedding(Path("zoe"), ("zoe",), (vectors,))
    got = encode_parts(model, parse("a zoe, red"), parse("Zoe"), (embedding,), 0)

    torch.testing.assert_close(got.states, torch.cat([negative, expected]))
    assert not torch.allclose(got.states, encode(model, "a zoe, red", "Zoe").states)
    assert len(pipe.tokenizer) == words
    assert all(torch.equal(value, before[name]) for name, value in pipe.text_encoder.state_dict().items())
    assert not pipe.text_encoder.get_input_embeddings()._forward_hooks


def test_embeddings_that_the_user_loaded_into_a_pipeline_still_count(tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_models.tiny_sd1(tmp_path))
    pipe.load_textual_inversion({"<zoe>": torch.ones(3, 32)})
    expected, negative = pipe.encode_prompt("a <zoe>", "cpu", 1, True, "x")
    assert torch.equal(encode(from_pipe(pipe), "a <zoe>", "x").states, torch.cat([negative, expected]))


def test_learned_vectors_are_for_one_thread_alone(tmp_path: Path) -> None:
    """The encoder may be the user's own, in use by other threads meanwhile."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_models.tiny_sd1(tmp_path))
    model: Any = from_pipe(pipe)
    embedding = Embedding(Path("zoe"), ("zoe",), (torch.ones(3, 32),))
    plain = encode(model, "abc", "").states
    elsewhere: list[Tensor] = []

    def meanwhile(_module: Any, _given: Any) -> None:
        if not elsewhere:
            elsewhere.append(plain[:0])
            with ThreadPoolExecutor(1) as others:
                elsewhere[:] = [others.submit(encode, model, "abc", "").result().states]

    with pipe.text_encoder.register_forward_pre_hook(meanwhile):
        encode_parts(model, parse("a"), parse("zoe"), (embedding,), 0)
    assert torch.equal(elsewhere[0], plain)


def test_each_encoder_of_sdxl_gets_its_own_vectors(pipes: dict[str, Any]) -> None:
    pipe = pipes["sdxl"]
    model: Any = from_pipe(pipe)
    vectors = tuple(torch.full((2, 32), value) for value in (0.5, -0.5))
    got = encode_parts(model, parse("zoe"), parse("x"), (Embedding(Path("zoe"), ("zoe",), vectors),), 0).states[1:]
    for number, (_, encoder) in enumerate(encoders(pipe)):
        layer = encoder.get_input_embeddings()
        old = layer.weight.data.clone()
        layer.weight.data[[5, 6]] = vectors[number]
        expected = read(pipe, [5, 6]).split(32, -1)[number]
        layer.weight.data.copy_(old)
        assert torch.equal(got.split(32, -1)[number], expected)
