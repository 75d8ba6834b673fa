"""What diffusers offers for memory, speed and style, on our pipeline: exact, or how far from plain."""

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    FluxControlPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    TaylorSeerCacheConfig,
)
from diffusers.pipelines import pipeline_utils
from PIL import Image

from dsd import DSDPipeline, Student
from dsd.guidance import Guidance

PROMPT = "a red creature on the beach"
GUIDED: dict[str, Any] = {"image_guidance": 2.0, "text_guidance": 1.5, "guidance_skip_steps": 1}


@pytest.fixture(scope="module")
def saved(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    student = Student(str(tiny_flux), "parallel", frame_size=(32, 32))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        weight = student.denoiser.x_embedder.weight
        weight[:, 64:] = torch.randn(weight[:, 64:].shape, generator=generator) / 4
    folder = tmp_path_factory.mktemp("inference") / "student"
    student.save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(saved: Path) -> DSDPipeline:
    made = aligned(DSDPipeline.from_pretrained(saved))
    made.set_progress_bar_config(disable=True)
    return made


def aligned(pipe: DSDPipeline) -> DSDPipeline:
    """The pipeline with its weights where torch puts them, as after a transfer. Mapped from a file they lie
    at odd addresses, and some processors round otherwise there.
    """
    for part in pipe.stock.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                parameter.data = parameter.data.clone()
    return pipe


@pytest.fixture(scope="module")
def reference() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def draw(pipe: DSDPipeline, reference: Image.Image, **arguments: Any) -> torch.Tensor:
    options: dict[str, Any] = {"num_inference_steps": 6, "output_type": "latent", "seed": 1, **arguments}
    images: torch.Tensor = pipe(reference, options.pop("prompt", PROMPT), **options).images
    return images


def error(ours: torch.Tensor, plain: torch.Tensor) -> float:
    """Root mean square error, relative to the spread of the plain latents."""
    return float((ours - plain).square().mean().sqrt() / plain.std())


# Offload. On a CPU alone, main memory is the device too: hooks and their order are real, transfers are not.


@pytest.mark.parametrize("arguments", [{}, GUIDED])
def test_model_offload_is_exact(pipe: DSDPipeline, reference: Image.Image, arguments: dict[str, Any]) -> None:
    plain = draw(pipe, reference, **arguments)
    pipe.enable_model_cpu_offload(device="cpu")
    assert {type(x._hf_hook).__name__ for x in (pipe.transformer, pipe.vae)} == {"CpuOffload"}
    assert torch.equal(draw(pipe, reference, **arguments), plain)
    assert torch.equal(draw(pipe, reference, **arguments), plain)


def test_sequential_offload_is_exact(pipe: DSDPipeline, reference: Image.Image) -> None:
    plain = draw(pipe, reference, output_type="pt", **GUIDED)
    # What `enable_sequential_cpu_offload` does, but that it says "cpu:0", a device that accelerate's hooks do
    # not know again.
    for part in pipe.stock.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}  # no weight is where it works
    assert torch.equal(draw(pipe, reference, output_type="pt", **GUIDED), plain)
    assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "how", [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]
)
def test_group_offload_is_exact(pipe: DSDPipeline, reference: Image.Image, how: dict[str, Any]) -> None:
    plain = draw(pipe, reference, output_type="pt")
    pipe.enable_group_offload(torch.device("cpu"), **how)
    assert torch.equal(draw(pipe, reference, output_type="pt"), plain)


def test_work_goes_to_the_device_that_offload_names(
    pipe: DSDPipeline, reference: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device in a GPU's place: what the first model gets is there, though no weight lies there."""
    monkeypatch.setattr(pipeline_utils, "empty_device_cache", lambda *_: None)
    pipe.enable_model_cpu_offload(device="meta")
    given: list[str] = []
    encode = pipe.backbone.encode_image
    monkeypatch.setattr(
        pipe.backbone, "encode_image", lambda pixels: given.append(pixels.device.type) or encode(pixels)
    )
    with pytest.raises((NotImplementedError, RuntimeError)):  # numbers end on the meta device
        draw(pipe, reference, num_inference_steps=1)
    assert given[0] == "meta"
    assert pipe.backbone.device.type == "meta"


def test_layerwise_casting_to_fp8_is_near(pipe: DSDPipeline, reference: Image.Image) -> None:
    plain = draw(pipe, reference)
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = [p for p in pipe.transformer.parameters() if p.dtype == torch.float8_e4m3fn]
    assert sum(p.numel() for p in stored) > 0.7 * sum(p.numel() for p in pipe.transformer.parameters())
    assert 1e-4 < error(draw(pipe, reference), plain) < 0.1
    assert {p.dtype for p in stored} == {torch.float8_e4m3fn}


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends_agree(pipe: DSDPipeline, reference: Image.Image, backend: str) -> None:
    plain = draw(pipe, reference, **GUIDED)
    pipe.transformer.set_attention_backend(backend)
    chosen = {x._attention_backend.value for x in pipe.transformer.attn_processors.values()}
    assert chosen == {backend}
    assert error(draw(pipe, reference, **GUIDED), plain) < 1e-5


def first_block(pipe: DSDPipeline) -> Any:
    return FirstBlockCacheConfig(threshold=2.0)


def faster(pipe: DSDPipeline) -> Any:
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 901),
        spatial_attention_block_identifiers=(
            r"^transformer_blocks.*attn",
            r"^single_transformer_blocks.*attn",
        ),
        is_guidance_distilled=True,
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def taylor(pipe: DSDPipeline) -> Any:
    return TaylorSeerCacheConfig(
        cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32
    )


def never(pipe: DSDPipeline) -> Any:
    return FirstBlockCacheConfig(threshold=0.0)


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        *[(x, y) for x in (first_block, taylor) for y in ({}, GUIDED, {**GUIDED, "batch_guidance": True})],
        (faster, {}),
    ],
)
def test_caches_are_near_and_forget_between_calls(
    pipe: DSDPipeline, reference: Image.Image, config: Any, arguments: dict[str, Any]
) -> None:
    plain = draw(pipe, reference, **arguments)
    pipe.transformer.enable_cache(config(pipe))
    cached = draw(pipe, reference, **arguments)
    assert 1e-6 < error(cached, plain) < 0.6
    other = draw(pipe, reference, prompt="a blue creature in snow", **arguments)
    assert not torch.equal(other, cached)
    assert torch.equal(draw(pipe, reference, **arguments), cached), "something is left of the call before"
    pipe.transformer.disable_cache()
    assert torch.equal(draw(pipe, reference, **arguments), plain)


def test_predictions_of_one_step_do_not_share_a_cache(pipe: DSDPipeline, reference: Image.Image) -> None:
    """With a threshold that nothing is under, a cache changes nothing, however many predictions there are."""
    plain = draw(pipe, reference, **GUIDED)
    pipe.transformer.enable_cache(never(pipe))
    assert torch.equal(draw(pipe, reference, **GUIDED), plain)
    pipe.transformer.disable_cache()
    # The reverse: everything is under the threshold, so each kind of prediction is made in full once.
    full: list[int] = []
    single = pipe.transformer.single_transformer_blocks[0]
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    handle = single.norm.register_forward_hook(lambda *_: full.append(1))
    draw(pipe, reference, image_guidance=2.0, text_guidance=1.5, guidance_skip_steps=0)
    handle.remove()
    assert len(full) == 3  # nothing, image, both: once each in six steps


@pytest.mark.parametrize("batched", [True, False])
def test_a_cache_with_one_state_is_refused_with_guidance(
    pipe: DSDPipeline, reference: Image.Image, batched: bool
) -> None:
    """FasterCache would take one prediction of a step for another, or stop at an assertion."""
    pipe.transformer.enable_cache(faster(pipe))
    with pytest.raises(ValueError, match="FasterCacheConfig keeps one state for all predictions"):
        draw(pipe, reference, batch_guidance=batched, **GUIDED)
    pipe.transformer.disable_cache()
    draw(pipe, reference, batch_guidance=batched, **GUIDED)


def test_a_failed_call_leaves_nothing_in_a_cache(pipe: DSDPipeline, reference: Image.Image) -> None:
    pipe.transformer.enable_cache(first_block(pipe))
    cached = draw(pipe, reference)

    def stop(pipe: Any, step: int, *rest: Any) -> None:
        assert pipe.current_timestep is not None
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(pipe, reference, callback_on_step_end=stop)
    assert pipe.current_timestep is None
    assert torch.equal(draw(pipe, reference), cached)


def test_compiled_blocks_agree(pipe: DSDPipeline, reference: Image.Image) -> None:
    plain = draw(pipe, reference, num_inference_steps=2)
    pipe.transformer.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    assert error(draw(pipe, reference, num_inference_steps=2), plain) < 1e-5


def test_a_style_lora_goes_on_top(
    pipe: DSDPipeline, reference: Image.Image, tiny_flux: Path, saved: Path, tmp_path: Path
) -> None:
    """A LoRA of the base, its narrow input layer included, on a student with the wide one."""
    from peft import LoraConfig

    base = FluxTransformer2DModel.from_pretrained(tiny_flux / "transformer")
    base.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["x_embedder", "to_q", "to_v"]))
    generator = torch.Generator().manual_seed(7)
    state = {
        name.replace(".default", ""): torch.randn(value.shape, generator=generator) / 8
        for name, value in base.state_dict().items()
        if ".lora_" in name
    }
    FluxPipeline.save_lora_weights(tmp_path / "style", transformer_lora_layers=state)
    plain = draw(pipe, reference)

    merged = copy.deepcopy(pipe.transformer)
    with torch.no_grad():
        for name in {name.partition(".lora_")[0] for name in state}:
            change = 0.5 * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
            weight = merged.get_submodule(name).weight
            weight[:, : change.shape[1]] += change
    by_hand = DSDPipeline.from_pretrained(saved)
    by_hand.set_progress_bar_config(disable=True)
    by_hand.backbone.denoiser = merged
    wanted = draw(by_hand, reference)
    assert error(wanted, plain) > 0.01

    pipe.load_lora_weights(tmp_path / "style", adapter_name="style")
    pipe.set_adapters("style", 0.5)
    assert error(draw(pipe, reference), wanted) < 1e-5
    pipe.set_adapters("style", 0.0)
    assert error(draw(pipe, reference), plain) < 1e-5
    pipe.delete_adapters("style")
    assert torch.equal(draw(pipe, reference), plain)


def test_two_loras_of_a_base_add_up(
    tiny_flux: Path, saved: Path, reference: Image.Image, tmp_path: Path
) -> None:
    """The student's own adapters beside another's, in stock diffusers."""
    from dsd.publish import export

    student = Student(str(tiny_flux), "parallel", lora={"rank": 2}, frame_size=(32, 32))
    with torch.no_grad():
        for number, parameter in enumerate(student._trained.values()):
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 10
    export(student, tmp_path / "own", "lora")
    stock = FluxControlPipeline.from_pretrained(tiny_flux)
    stock.load_lora_weights(tmp_path / "own", adapter_name="own")
    style = {
        "transformer_blocks.0.attn.to_q.lora_A.weight": torch.randn(2, 32) / 8,
        "transformer_blocks.0.attn.to_q.lora_B.weight": torch.randn(32, 2) / 8,
    }
    FluxPipeline.save_lora_weights(tmp_path / "style", transformer_lora_layers=style)
    stock.load_lora_weights(tmp_path / "style", adapter_name="style")
    stock.set_adapters(["own", "style"], [1.0, 1.0])
    student.save_pretrained(tmp_path / "student")
    ours = DSDPipeline.from_pretrained(tmp_path / "student")
    ours.load_lora_weights(tmp_path / "style", adapter_name="style")
    ours.set_progress_bar_config(disable=True)
    stock.transformer.register_to_config(out_channels=64)  # which stock leaves open when it grows the input
    one = draw(ours, reference)
    ours.backbone.denoiser = stock.transformer
    assert error(draw(ours, reference), one) < 1e-5


# Guidance


def test_a_negative_prompt_stands_in_for_the_empty_one(pipe: DSDPipeline, reference: Image.Image) -> None:
    plain = draw(pipe, reference, **GUIDED)
    assert torch.equal(draw(pipe, reference, negative_prompt="", **GUIDED), plain)
    led = draw(pipe, reference, negative_prompt="in snow", **GUIDED)
    assert error(led, plain) > 1e-3
    # Away from the prompt itself there is nowhere to go: what is left is guidance by image.
    text = {"text_guidance": 3.0, "guidance_skip_steps": 0}
    assert error(draw(pipe, reference, negative_prompt=PROMPT, **text), draw(pipe, reference)) < 1e-5


def test_negative_prompts_go_with_their_prompts(pipe: DSDPipeline, reference: Image.Image) -> None:
    prompts = [PROMPT, "a blue creature in snow"]
    both = draw(pipe, reference, prompt=prompts, negative_prompt=["in forest", "red"], **GUIDED)
    for i, negative in enumerate(["in forest", "red"]):
        alone = draw(
            pipe, reference, prompt=prompts[i], negative_prompt=negative, **{**GUIDED, "seed": 1 + i}
        )
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("negative", "kind", "message"),
    [
        (["a", "b"], ValueError, "2 negative prompts for 1 prompts"),
        ([1], TypeError, "must be a string"),
    ],
)
def test_negative_prompts_that_do_not_fit(
    pipe: DSDPipeline, reference: Image.Image, negative: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message if kind is ValueError else "negative"):
        draw(pipe, reference, negative_prompt=negative, **GUIDED)


def test_a_negative_prompt_without_effect_is_said(
    pipe: DSDPipeline, reference: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dsd"):
        draw(pipe, reference, negative_prompt="in snow")
    assert "negative_prompt does nothing" in caplog.text


def test_guidance_in_an_interval(pipe: DSDPipeline, reference: Image.Image) -> None:
    plain = draw(pipe, reference)
    always = draw(pipe, reference, image_guidance=2.0, guidance_skip_steps=0)
    whole = draw(pipe, reference, image_guidance=2.0, guidance_skip_steps=0, guidance_interval=(0.0, 1.0))
    assert torch.equal(whole, always)
    assert torch.equal(draw(pipe, reference, image_guidance=2.0, guidance_interval=(0.0, 1e-3)), plain)
    part = draw(pipe, reference, image_guidance=2.0, guidance_skip_steps=0, guidance_interval=(0.3, 0.8))
    assert error(part, plain) > 1e-3
    assert error(part, always) > 1e-3
    weights = Guidance(image=2.0, skip_steps=0, interval=(0.3, 0.8)).weights
    assert [len(weights(0, t)) for t in (1.0, 0.81, 0.8, 0.5, 0.3, 0.29)] == [1, 1, 3, 3, 3, 1]


@pytest.mark.parametrize("interval", [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.5), (0.8, 0.2)])
def test_intervals_that_are_none(
    pipe: DSDPipeline, reference: Image.Image, interval: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match=r"interval of guidance is \(low, high\) in \[0, 1\]"):
        draw(pipe, reference, guidance_interval=interval)


def test_guidance_goes_one_by_one_where_memory_is_short(
    pipe: DSDPipeline,
    reference: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one_by_one = draw(pipe, reference, **GUIDED)
    together = draw(pipe, reference, batch_guidance=True, **GUIDED)
    assert error(together, one_by_one) < 1e-5
    sizes: list[int] = []
    call = pipe.backbone.call

    def short(tokens: torch.Tensor, *rest: Any, **extra: Any) -> torch.Tensor:
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError
        found: torch.Tensor = call(tokens, *rest, **extra)
        return found

    monkeypatch.setattr(pipe.backbone, "call", short)
    with caplog.at_level(logging.WARNING, "dsd"):
        ours = draw(pipe, reference, batch_guidance="auto", **GUIDED)
    assert torch.equal(ours, one_by_one)
    assert sizes == [1, 3, *[1] * 15]  # tried once, then one by one in all five guided steps
    assert "Memory is too short for 3 predictions" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):
        draw(pipe, reference, batch_guidance=True, **GUIDED)


def test_what_loads_later_comes_in_the_dtype_that_was_asked_for(
    tiny_flux: Path, reference: Image.Image
) -> None:
    student = Student(str(tiny_flux), "parallel", frame_size=(32, 32))
    pipe = DSDPipeline(student.backbone, student.conditioning, (32, 32)).to(torch.bfloat16)
    assert pipe.backbone.loaded == {"denoiser"}
    pipe.set_progress_bar_config(disable=True)
    assert draw(pipe, reference).dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.bfloat16


# Batches


def test_many_at_once_are_what_each_is_alone(pipe: DSDPipeline, reference: Image.Image) -> None:
    both = draw(pipe, reference, prompt=[PROMPT, "in snow"], num_images_per_prompt=2, **GUIDED)
    for i in range(4):
        prompt = [PROMPT, "in snow"][i // 2]
        alone = draw(pipe, reference, prompt=prompt, **{**GUIDED, "seed": 1 + i})
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (32, 80)])
def test_any_size_is_drawn(pipe: DSDPipeline, reference: Image.Image, size: tuple[int, int]) -> None:
    drawn = draw(pipe, reference, height=size[0], width=size[1], output_type="pt")
    assert drawn.shape == (1, 3, *size)
    assert torch.equal(drawn, draw(pipe, reference, height=size[0], width=size[1], output_type="pt"))
