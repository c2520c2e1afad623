"""Loaded pipelines: taken by class and components, refused where something of them would be left out, and left as they were."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch.overrides import TorchFunctionMode

from sfumato.accel import batch_invariance
from sfumato.backbones.loading import from_pipe
from sfumato.backbones.pipelines import check_pipeline
from sfumato.errors import Unsupported
from tests import tiny_flow
from tests.unit.loading.helpers import prediction


@pytest.fixture
def pipe(sd1: Path) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)


def test_a_controlnet_is_not_dropped(pipe: Any) -> None:
    controlnet = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16))
    controlled = diffusers.StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=controlnet, requires_safety_checker=False
    )

    with pytest.raises(Unsupported, match="StableDiffusionControlNetPipeline has a ControlNet, which would be left out"):
        from_pipe(controlled)
    assert from_pipe(diffusers.StableDiffusionPipeline.from_pipe(controlled)).traits.family == "sd1"


@pytest.mark.parametrize("name", ["StableDiffusionPAGPipeline", "StableDiffusionGLIGENPipeline", "StableDiffusionSAGPipeline"])
def test_pipelines_that_add_something_are_refused_by_name(name: str, pipe: Any) -> None:
    other = type(name, (), {"components": pipe.components, **pipe.components, "config": {}})()

    with pytest.raises(Unsupported, match=f"A {name} is not supported, as what it adds would be left out"):
        from_pipe(other)


@pytest.mark.parametrize(
    ("component", "called"), [("adapter", "T2I-Adapter"), ("motion_adapter", "motion adapter"), ("prior", "prior")]
)
def test_a_further_component_is_named(component: str, called: str, pipe: Any) -> None:
    other = SimpleNamespace(components={**pipe.components, component: object()})

    with pytest.raises(Unsupported, match=f"has a {called}, which would be left out"):
        check_pipeline(other)


def test_a_loaded_ip_adapter_is_refused(pipe: Any) -> None:
    pipe.unet.encoder_hid_proj = torch.nn.Linear(2, 2)

    with pytest.raises(Unsupported, match="IP-Adapter loaded"):
        from_pipe(pipe)


def test_a_safety_checker_that_is_not_run_is_noted(pipe: Any) -> None:
    pipe.register_modules(safety_checker=pipe.vae)

    assert from_pipe(pipe).notes == ["The safety checker of this StableDiffusionPipeline is not run."]


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_plain_pipelines_and_the_users_own_subclasses_are_taken(name: str, pipe: Any) -> None:
    plain = getattr(diffusers, name)(**pipe.components, requires_safety_checker=False)
    own = type("Mine", (getattr(diffusers, name),), {})(**pipe.components, requires_safety_checker=False)

    assert from_pipe(plain).traits.family == from_pipe(own).traits.family == "sd1"
    assert from_pipe(plain).notes == []


def test_a_flow_models_controlnet_is_not_dropped(tmp_path: Path) -> None:
    pipe = diffusers.FluxPipeline.from_pretrained(tiny_flow.tiny_flux(tmp_path))
    parts = {**pipe.components, "controlnet": object()}
    controlled = type("FluxControlNetPipeline", (), {"components": parts, **parts, "config": {}})()

    assert from_pipe(pipe).traits.family == "flux"
    with pytest.raises(Unsupported, match="FluxControlNetPipeline has a ControlNet"):
        from_pipe(controlled)


def test_the_users_layers_are_as_they_were_after_a_prediction(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_invariance, "LONG_PRODUCT", 16)
    pipe = pipe.to(torch.bfloat16)
    linear = [layer for layer in pipe.unet.modules() if isinstance(layer, torch.nn.Linear)]
    own = linear[0].forward
    vars(linear[0])["forward"] = own  # as hooks of accelerate leave it
    batches: list[int] = []
    linear[1].register_forward_hook(lambda layer, given, output: batches.append(len(given[0])))

    for _ in range(2):
        model: Any = from_pipe(pipe)
        prediction(model)
        assert [layer for layer in linear if "forward" in vars(layer)] == linear[:1]
        assert linear[0].forward is own
    assert batches == [2, 2]  # of the layers' own calls: only the products within are one by one


@pytest.mark.parametrize(
    ("shape", "kind", "inside_calls"),
    [
        ((3, 4), torch.float32, []),  # a row a sample, as time embeddings are
        ((3, 1, 4), torch.float32, []),
        ((3, 5, 4), torch.bfloat16, [1, 1, 1]),
        ((3, 5, 4), torch.float32, [3]),
        ((3, 5, 2), torch.bfloat16, [3]),
    ],
)
def test_products_take_samples_one_by_one_in_this_thread_alone(
    shape: tuple[int, ...], kind: torch.dtype, inside_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_invariance, "LONG_PRODUCT", 3)
    layer, seen = torch.nn.Linear(shape[-1], 2, dtype=kind), []
    x = torch.randn(shape, dtype=kind)

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.nn.functional.linear:
                seen.append(len(args[0]))
            return func(*args, **(kwargs or {}))

    def call() -> torch.Tensor:
        with Seen():
            return layer(x)

    with Seen(), batch_invariance._SplitProducts():
        inside = layer(x)
        with ThreadPoolExecutor(1) as others:
            elsewhere = others.submit(call).result()
    outside = call()

    assert seen == [*inside_calls, 3, 3]
    torch.testing.assert_close(inside, outside)
    torch.testing.assert_close(elsewhere, outside)


def test_threads_around_one_pipeline_leave_nothing_on_it(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two predictions that overlap: what the first one put on a module, the second one must not put back after it."""
    monkeypatch.setattr(batch_invariance, "LONG_PRODUCT", 16)
    pipe = pipe.to(torch.bfloat16)
    first, second = from_pipe(pipe), from_pipe(pipe)
    inside, entered, go_on = pipe.unet.conv_in, threading.Event(), threading.Event()
    before = {name: set(vars(module)) for name, module in pipe.unet.named_modules()}

    def wait(module: Any, given: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            go_on.wait(30)
        else:
            go_on.set()
            other.join(30)

    handle = inside.register_forward_pre_hook(wait)
    other = threading.Thread(target=prediction, args=(first,))
    other.start()
    assert entered.wait(30)
    prediction(second)
    handle.remove()

    assert {name: set(vars(module)) for name, module in pipe.unet.named_modules()} == before
