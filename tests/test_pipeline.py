"""Inference: guidance, seeds, batches, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dsd import DSDPipeline
from dsd.backbones import FluxBackbone
from dsd.conditioning import Parallel
from dsd.pixels import from_pixels, to_pixels

PROMPT = "a red creature on the beach"


@pytest.fixture(scope="module")
def pipe(tiny_flux: Path) -> DSDPipeline:
    backbone, method = FluxBackbone(str(tiny_flux)), Parallel()
    method.install(backbone.denoiser)
    with torch.no_grad():
        weight = backbone.denoiser.x_embedder.weight
        weight[:, 64:] = torch.randn(weight[:, 64:].shape, generator=torch.Generator().manual_seed(5)) / 4
    made = DSDPipeline(backbone, method, (32, 32))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def reference() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Calls:
    """Counts the denoiser's calls and keeps what went in and came out."""

    def __init__(self, pipe: DSDPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        call = pipe.backbone.call

        def counted(tokens: Tensor, t: Tensor, text: Any, ids: Tensor, guidance: Any, **extra: Any) -> Tensor:
            output: Tensor = call(tokens, t, text, ids, guidance, **extra)
            self.calls.append({"tokens": tokens, "t": t, "text": text, "output": output})
            return output

        monkeypatch.setattr(pipe.backbone, "call", counted)


@pytest.mark.parametrize(
    ("image", "text", "forwards"),
    [
        (1.0, 1.0, [1, 1, 1, 1]),
        (1.0, 2.0, [1, 1, 2, 2]),
        (2.0, 1.0, [1, 1, 3, 3]),
        (2.0, 2.0, [1, 1, 2, 2]),
        (1.0, 0.0, [1, 1, 1, 1]),
    ],
)
def test_only_needed_forwards_are_run(
    pipe: DSDPipeline,
    reference: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    image: float,
    text: float,
    forwards: list[int],
) -> None:
    counted, after = Calls(pipe, monkeypatch), []
    arguments: dict[str, Any] = {
        "image_guidance": image,
        "text_guidance": text,
        "num_inference_steps": 4,
        "seed": 0,
    }
    pipe(
        reference,
        PROMPT,
        callback_on_step_end=lambda p, i, t, kwargs: after.append(len(counted.calls)),
        **arguments,
    )
    assert np.diff([0, *after]).tolist() == forwards
    counted.calls.clear()
    pipe(reference, PROMPT, batch_guidance=True, **arguments)
    assert [len(call["tokens"]) for call in counted.calls] == forwards


def test_guidance_is_the_three_term_formula(
    pipe: DSDPipeline, reference: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the three saved predictions of one guided step to the canvas after it."""
    counted, steps = Calls(pipe, monkeypatch), []
    noise = torch.randn(1, 16, 4, 8)
    pipe(
        reference, PROMPT, latents=noise, num_inference_steps=1, guidance_skip_steps=0, image_guidance=1.7,
        text_guidance=2.3, callback_on_step_end=lambda p, i, t, kwargs: steps.append(kwargs["latents"]),
    )  # fmt: skip
    nothing, shown, full = counted.calls
    empty, said = pipe.backbone.encode_text([""]), pipe.backbone.encode_text([PROMPT])
    assert not nothing["tokens"][..., 64:].any()
    assert shown["tokens"][..., 64:].any()
    torch.testing.assert_close(nothing["text"].tokens, empty.tokens)
    torch.testing.assert_close(shown["text"].pooled, empty.pooled)
    torch.testing.assert_close(full["text"].tokens, said.tokens)
    v_00, v_0i, v_ti = (pipe.conditioning.select(call["output"], noise) for call in counted.calls)
    velocity = v_00 + 1.7 * (v_0i - v_00) + 2.3 * (v_ti - v_0i)
    torch.testing.assert_close(
        steps[0], noise - velocity, atol=1e-5, rtol=1e-5
    )  # one step goes from t = 1 to t = 0


@pytest.mark.parametrize("guided", [{"image_guidance": 1.5}, {"text_guidance": 1.5}])
def test_either_guidance_alone_takes_effect(
    pipe: DSDPipeline, reference: Image.Image, guided: dict[str, float]
) -> None:
    arguments: dict[str, Any] = {"num_inference_steps": 4, "seed": 0, "output_type": "pt"}
    plain = pipe(reference, PROMPT, **arguments).images
    other = pipe(reference, PROMPT, **guided, **arguments).images
    assert not torch.allclose(plain, other, atol=1e-3)
    batched = pipe(reference, PROMPT, batch_guidance=True, **guided, **arguments).images
    torch.testing.assert_close(batched, other, atol=1e-5, rtol=0)


def test_guidance_without_effect_is_said(
    pipe: DSDPipeline, reference: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    pipe(reference, PROMPT, num_inference_steps=2, image_guidance=2.0, seed=0)
    assert "do nothing" in caplog.text


def test_distilled_guidance_reaches_the_denoiser(pipe: DSDPipeline, reference: Image.Image) -> None:
    low, high = (
        pipe(reference, PROMPT, num_inference_steps=2, seed=0, guidance_scale=g, output_type="pt").images
        for g in (1.0, 6.0)
    )
    assert not torch.equal(low, high)


def test_seeds_and_generators(pipe: DSDPipeline, reference: Image.Image) -> None:
    def draw(**arguments: Any) -> Tensor:
        images: Tensor = pipe(reference, PROMPT, num_inference_steps=2, output_type="pt", **arguments).images
        return images

    torch.manual_seed(1)
    first = draw(seed=4)
    torch.manual_seed(2)
    assert torch.equal(draw(seed=4), first)
    assert torch.equal(draw(generator=torch.Generator().manual_seed(4)), first)
    assert not torch.equal(draw(seed=5), first)
    three = draw(seed=4, num_images_per_prompt=3)
    torch.testing.assert_close(three[:1], first, atol=1e-5, rtol=0)
    torch.testing.assert_close(three[1:2], draw(seed=5), atol=1e-5, rtol=0)
    listed = draw(generator=[torch.Generator().manual_seed(s) for s in (9, 5)], num_images_per_prompt=2)
    torch.testing.assert_close(listed[1:], three[1:2], atol=1e-5, rtol=0)


def test_references_and_prompts_are_paired(pipe: DSDPipeline, reference: Image.Image) -> None:
    other = Image.fromarray(255 - np.asarray(reference))
    prompts = [PROMPT, "the blue creature in the snow"]

    def draw(image: Any, prompt: Any, **arguments: Any) -> Tensor:
        images: Tensor = pipe(image, prompt, num_inference_steps=2, output_type="pt", **arguments).images
        return images

    for images, words in [(reference, prompts), ([reference, other], PROMPT), ([reference, other], prompts)]:
        both = draw(images, words, seed=1)
        for i in range(2):
            one = images if images is reference else images[i]
            said = words if words is PROMPT else words[i]
            torch.testing.assert_close(both[i : i + 1], draw(one, said, seed=1 + i), atol=1e-5, rtol=0)
    repeated = draw(reference, prompts, seed=1, num_images_per_prompt=2)
    torch.testing.assert_close(repeated[2:3], draw(reference, prompts[1], seed=3), atol=1e-5, rtol=0)


def test_output_types_agree(pipe: DSDPipeline, reference: Image.Image) -> None:
    results = {
        kind: pipe(
            reference, PROMPT, num_inference_steps=2, seed=0, output_type=kind, return_both_frames=True
        )
        for kind in ("pil", "np", "pt", "latent")
    }
    assert results["pil"].images[0].size == (32, 32)
    np.testing.assert_array_equal(
        np.asarray(results["pil"].images[0]), (results["np"].images[0] * 255).round()
    )
    torch.testing.assert_close(
        torch.from_numpy(results["np"].images).permute(0, 3, 1, 2), results["pt"].images
    )
    canvas = torch.cat([results["latent"].references, results["latent"].images], dim=-1)
    decoded = pipe.backbone.decode(canvas) / 2 + 0.5
    torch.testing.assert_close(results["pt"].images, decoded.clamp(0, 1)[..., 32:])
    torch.testing.assert_close(results["pt"].references, decoded.clamp(0, 1)[..., :32])
    assert pipe(reference, PROMPT, num_inference_steps=2, seed=0).references is None


def test_callback_may_change_the_canvas(pipe: DSDPipeline, reference: Image.Image) -> None:
    def stop(p: DSDPipeline, i: int, t: Tensor, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(kwargs["latents"])}

    result = pipe(reference, PROMPT, num_inference_steps=2, output_type="latent", callback_on_step_end=stop)
    assert not result.images.any()


def test_other_sizes_than_in_training(pipe: DSDPipeline, reference: Image.Image) -> None:
    assert pipe(reference, PROMPT, num_inference_steps=1, height=48, width=16).images[0].size == (16, 48)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": " "}, ValueError, "empty"),
        ({"prompt": []}, ValueError, "empty"),
        ({"prompt": [1]}, TypeError, "string"),
        ({"image": "picture.png"}, TypeError, "PIL"),
        ({"image": []}, ValueError, "No image"),
        ({"image": torch.zeros(1, 32, 32)}, ValueError, r"\(3, h, w\)"),
        ({"image": torch.full((3, 32, 32), -1.0)}, ValueError, r"in \[0, 1\]"),
        ({"image": Image.new("I;16", (8, 8))}, ValueError, "RGB"),
        ({"height": 40}, ValueError, "16 px tokens"),
        ({"num_inference_steps": 0}, ValueError, "at least 1"),
        ({"prompt": ["a"] * 3, "image": [Image.new("RGB", (8, 8))] * 2}, ValueError, "as many of both"),
        ({"generator": [torch.Generator()] * 2}, ValueError, "one for each picture"),
        ({"generator": torch.Generator(), "seed": 1}, ValueError, "not both"),
        ({"latents": torch.zeros(1, 16, 4, 4)}, ValueError, r"\(1, 16, 4, 8\)"),
    ],
)
def test_bad_input_gets_a_clear_error(
    pipe: DSDPipeline, reference: Image.Image, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    call = DSDPipeline.__call__
    while hasattr(call, "__wrapped__"):  # without the run-time type checks of the tests
        call = call.__wrapped__
    with pytest.raises(error, match=message), torch.no_grad():
        call(pipe, **{"image": reference, "prompt": PROMPT, "num_inference_steps": 1, **arguments})


def test_folders_that_do_not_fit(tiny_flux: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        DSDPipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Pass conditioning="):
        DSDPipeline.from_pretrained(tiny_flux)
    with pytest.raises(ValueError, match="128 and 64"):
        DSDPipeline.from_pretrained(tiny_flux, conditioning="parallel")


def test_pixels_of_any_picture() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    expected = torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1
    for image in (Image.fromarray(array), array, torch.from_numpy(array).permute(2, 0, 1), array / 255):
        torch.testing.assert_close(to_pixels(image, 24, 24), expected, atol=1e-5, rtol=0, check_dtype=False)
    assert np.array_equal(np.asarray(from_pixels(expected)[0]), array)
    see_through = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (to_pixels(see_through, 8, 8) == 1).all()
    for mode in ("L", "P", "CMYK", "1", "LA"):
        assert to_pixels(Image.new(mode, (20, 10)), 16, 16).shape == (1, 3, 16, 16)
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 10:20] = 255  # the middle third is what the centre crop shows
    for image in (Image.fromarray(stripes), torch.from_numpy(stripes).permute(2, 0, 1)):
        assert (to_pixels(image, 10, 10) == 1).all()
