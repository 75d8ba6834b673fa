"""`token_concat`: positions written out by hand, stock classes as the oracle, several references."""

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline, FluxPipeline
from PIL import Image

from dsd import DSDPipeline, Student, conditioning
from dsd.backbones import FluxBackbone, RawBatch, Reference, Text
from dsd.backbones.packing import grid_ids, pack, unpack
from dsd.conditioning import Parallel, TokenConcat

T = torch.tensor([0.3, 0.8])


@pytest.fixture(scope="module")
def backbone(tiny_flux):
    return FluxBackbone(str(tiny_flux))


@pytest.fixture(scope="module")
def text(backbone):
    return backbone.encode_text(["a red creature", "the beach"])


def positions(latents=(4, 4), count=2, **arguments):
    """The ids of each reference's tokens, beside a target of 2 x 3 tokens."""
    reference = Reference(latents=torch.ones(1, count, 16, *latents))
    words = Text(tokens=torch.zeros(1, 3, 24), pooled=torch.zeros(1, 20))
    inputs = TokenConcat(**arguments).inputs(torch.zeros(1, 16, 4, 6), T[:1], reference, words)
    assert torch.equal(inputs.ids[:6], grid_ids(4, 6))
    return inputs.ids[6:].unflatten(0, (count, -1)).tolist()


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        ({}, [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]], None),
        ({"id_scheme": "none"}, [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]], None),
        (
            {"id_scheme": "uno"},
            [[0, 2, 3], [0, 2, 4], [0, 3, 3], [0, 3, 4]],
            [[0, 4, 5], [0, 4, 6], [0, 5, 5], [0, 5, 6]],
        ),
        (
            {"id_scheme": "uno", "shift": "rows"},
            [[0, 2, 0], [0, 2, 1], [0, 3, 0], [0, 3, 1]],
            [[0, 4, 0], [0, 4, 1], [0, 5, 0], [0, 5, 1]],
        ),
        (
            {"id_scheme": "uno", "shift": "columns"},
            [[0, 0, 3], [0, 0, 4], [0, 1, 3], [0, 1, 4]],
            [[0, 0, 5], [0, 0, 6], [0, 1, 5], [0, 1, 6]],
        ),
        ({"id_scheme": "omini"}, [[0, 0, -2], [0, 0, -1], [0, 1, -2], [0, 1, -1]], None),
        ({"id_scheme": "omini", "offset": (0, 0)}, [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]], None),
        (
            {"id_scheme": "omini", "offset": [1, 0], "scale": 2},
            [[0, 2.5, 0.5], [0, 2.5, 2.5], [0, 4.5, 0.5], [0, 4.5, 2.5]],
            None,
        ),
    ],
)  # fmt: skip
def test_positions_of_each_scheme(arguments, first, second):
    assert positions(**arguments) == [first, second or first]


def test_several_references_equal_the_stock_class(backbone, text):
    """Tokens and ids joined by hand, of references that are larger than the target."""
    x, latents = torch.randn(2, 16, 4, 6), torch.randn(2, 2, 16, 6, 8)
    marked = grid_ids(6, 8) + torch.tensor([1.0, 0, 0])
    with torch.no_grad():
        theirs = backbone.denoiser(
            hidden_states=torch.cat([pack(x), pack(latents[:, 0]), pack(latents[:, 1])], dim=1),
            encoder_hidden_states=text.tokens, pooled_projections=text.pooled, timestep=T,
            guidance=torch.tensor([3.5, 3.5]), txt_ids=torch.zeros(24, 3),
            img_ids=torch.cat([grid_ids(4, 6), marked, marked]),
        ).sample  # fmt: skip
        ours = TokenConcat().velocity(backbone, x, T, Reference(latents=latents), text, 3.5)
    torch.testing.assert_close(ours, unpack(theirs[:, :6], 4, 6), atol=1e-6, rtol=0)


def test_a_hidden_reference_is_none(backbone, text):
    """Left out where nobody has it, masked where a neighbour does: bit for bit the base, or all but."""
    method, x = TokenConcat(), torch.randn(2, 16, 4, 6)
    reference = Reference(latents=torch.randn(2, 2, 16, 4, 6))
    with torch.no_grad():
        base = unpack(backbone.call(pack(x), T, text, grid_ids(4, 6)), 4, 6)
        whole = method.velocity(backbone, x, T, reference, text)
        assert torch.equal(method.velocity(backbone, x, T, reference.zero(), text), base)
        half = method.velocity(backbone, x, T, reference.masked(torch.tensor([False, True])), text)
        second_hidden = Reference(latents=reference.latents * torch.tensor([1.0, 0])[:, None, None, None])
        one = Reference(latents=reference.latents[:, 0])
        torch.testing.assert_close(
            method.velocity(backbone, x, T, second_hidden, text), method.velocity(backbone, x, T, one, text)
        )
    torch.testing.assert_close(half[0], base[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(half[1], whole[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(whole, base, atol=1e-2)


def a_pipe(backbone, method, size=(32, 48)):
    pipe = DSDPipeline(backbone, method, size)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_without_a_reference_it_is_kontext_without_an_image(backbone, tiny_flux):
    noise, arguments = torch.randn(1, 16, 4, 6), {"num_inference_steps": 3, "guidance_scale": 2.5}
    ours = a_pipe(backbone, TokenConcat())(
        torch.rand(1, 3, 32, 48), "a red creature", latents=noise, image_guidance=0.0, guidance_skip_steps=0,
        text_guidance=0.0, output_type="latent", **arguments,
    ).images  # fmt: skip
    for stock, extra in ((FluxKontextPipeline, {"max_area": 32 * 48}), (FluxPipeline, {})):
        pipe = stock.from_pretrained(tiny_flux)
        pipe.set_progress_bar_config(disable=True)
        theirs = pipe(
            prompt="", latents=pack(noise), height=32, width=48, max_sequence_length=24, output_type="latent",
            **extra, **arguments,
        ).images  # fmt: skip
        torch.testing.assert_close(pack(ours), theirs, atol=1e-5, rtol=0)


def test_guidance_in_one_call_is_guidance_in_several(backbone):
    pipe = a_pipe(backbone, TokenConcat())
    arguments = {"seed": 1, "num_inference_steps": 3, "output_type": "latent", "guidance_skip_steps": 1}
    images = [
        pipe(torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)), "the snow",
             image_guidance=1.7, text_guidance=2.3, batch_guidance=together, **arguments).images
        for together in (False, True)
    ]  # fmt: skip
    torch.testing.assert_close(*images, atol=1e-5, rtol=0)


def test_sets_of_references_in_the_pipeline(backbone):
    rng = np.random.default_rng(0)
    a, b, c, d = (Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)) for _ in range(4))
    pipe = a_pipe(backbone, TokenConcat())
    arguments = {"num_inference_steps": 2, "output_type": "latent"}

    def draw(image, prompt="a red creature", seed=0):
        return pipe(image, prompt, seed=seed, **arguments).images

    both = draw([[a, b], [c, d]])
    torch.testing.assert_close(both[:1], draw([[a, b]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[1:], draw([[c, d]], seed=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(draw([[b, a]]), both[:1], atol=1e-5, rtol=0)
    assert torch.equal(draw([[a]]), draw(a))
    assert len(draw([a, b])) == 2
    assert not torch.allclose(draw(a), both[:1], atol=1e-3)
    torch.testing.assert_close(
        draw([[a, b]], ["snow", "the beach"])[1:], draw([[a, b]], "the beach", 1), atol=1e-5, rtol=0
    )
    with pytest.raises(TypeError, match=r"\[\[a, b\], \[c\]\]"):
        draw([[a, b], c])
    with pytest.raises(ValueError, match="alike in number and size"):
        draw([[a, b], [c]])
    with pytest.raises(ValueError, match="Parallel takes exactly one reference for each picture; got 2"):
        a_pipe(backbone, Parallel())([[a, b]], "snow", num_inference_steps=1)


@pytest.mark.parametrize(
    ("fit", "given", "expected"),
    [
        ("cover", (100, 30), (32, 48)),
        ("contain", (100, 30), (32, 48)),
        ("keep", (100, 30), (96, 16)),
        ("area", (100, 30), (64, 16)),
        ("area", (320, 480), (32, 48)),
        ("area", (2000, 16), (432, 16)),
    ],
)
def test_sizes_of_references(fit, given, expected):
    method = TokenConcat(fit=fit)
    prepared = method.prepare([torch.rand(1, 3, *given)], 32, 48)
    assert prepared.shape == (1, 3, *expected)
    assert torch.equal(method.prepare([prepared], 32, 48), prepared) or fit == "area"


def test_references_of_several_sizes():
    mixed = [torch.rand(1, 3, 32, 32), torch.rand(1, 3, 64, 32)]
    with pytest.raises(ValueError, match="one size; got 32 x 32 px, 32 x 64 px"):
        TokenConcat(fit="keep").prepare(mixed, 32, 48)
    assert TokenConcat(fit="contain").prepare(mixed, 32, 48).shape == (1, 2, 3, 32, 48)
    with pytest.raises(ValueError, match="at least one reference for each picture; got 0"):
        TokenConcat().prepare([], 32, 48)
    with pytest.raises(ValueError, match="at least 16 px a side"):
        TokenConcat(fit="keep").prepare([torch.rand(1, 3, 8, 64)], 32, 48)


def test_training_on_several_references_of_their_own_size(backbone, tiny_flux, monkeypatch):
    method = TokenConcat(fit="keep")
    student = Student(str(tiny_flux), method, lora={"rank": 2}, text_dropout=0.0, reference_dropout=0.5)
    batch = RawBatch(
        ids=["a", "b"], reference=torch.randint(0, 256, (2, 2, 3, 48, 16), dtype=torch.uint8),
        target=torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), captions=["snow", "the beach"],
    )  # fmt: skip
    encoded = student.encode(batch)
    assert encoded.reference.latents.shape == (2, 2, 16, 6, 2)
    alone = backbone.encode_image(batch.reference[1, 1][None].float() / 255 * 2 - 1)
    torch.testing.assert_close(encoded.reference.latents[1, 1:], alone, atol=1e-5, rtol=1e-4)
    shifted_by = []
    sample = student.objective.sample_times
    monkeypatch.setattr(
        student.objective,
        "sample_times",
        lambda count, tokens, g: shifted_by.append(tokens) or sample(count, tokens, g),
    )
    loss, _ = student.losses(encoded, torch.Generator().manual_seed(0))
    loss.backward()
    assert any(p.grad.any() for name, p in student.named_parameters() if "lora_B" in name)
    assert shifted_by == [4], "the time shift follows the target's tokens"


def test_the_sampler_is_shifted_by_the_target_alone(backbone, monkeypatch):
    asked, schedule = [], backbone.schedule
    monkeypatch.setattr(
        backbone,
        "schedule",
        lambda steps, tokens, device: asked.append(tokens) or schedule(steps, tokens, device),
    )
    reference = torch.rand(1, 3, 64, 64)
    a_pipe(backbone, TokenConcat(fit="keep"))([[reference[0], reference[0]]], "snow", num_inference_steps=1)
    assert asked == [2 * 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id_scheme": "flux2"}, "'kontext', 'uno', 'omini', 'none'"),
        ({"fit": "stretch"}, "'cover', 'contain', 'area', 'keep'"),
        ({"scale": 2}, "id_scheme='kontext' does not use scale. It takes: no further argument"),
        ({"id_scheme": "uno", "offset": [0, 0]}, "does not use offset. It takes: shift"),
        ({"id_scheme": "uno", "shift": "down"}, "'diagonal', 'rows', 'columns'"),
        ({"id_scheme": "omini", "scale": 0}, "above 0"),
        ({"id_scheme": "omini", "offset": [1]}, r"\(rows, columns\)"),
    ],
)
def test_errors_say_what_is_allowed(arguments, message):
    create = conditioning.get("token_concat").__init__
    while hasattr(create, "__wrapped__"):  # without the run-time type checks of the tests
        create = create.__wrapped__
    with pytest.raises(ValueError, match=message):
        create(TokenConcat.__new__(TokenConcat), **arguments)


def test_only_kontext_has_a_stock_pipeline():
    found = {
        scheme: TokenConcat(id_scheme=scheme).stock_pipeline for scheme in ("kontext", "uno", "omini", "none")
    }
    assert found == {"kontext": "FluxKontextPipeline", "uno": None, "omini": None, "none": None}
