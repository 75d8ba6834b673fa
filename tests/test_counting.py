"""Counting reproduces the published numbers of FLUX.1-dev, and what really runs."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsd import counting
from dsd.backbones import FluxBackbone, Reference
from dsd.backbones.lora import add_lora, lora_parameters
from dsd.counting import blank_batch, count, forward_tflop, meta_student, skeleton, tflop

BLOCK = r"(single_)?transformer_blocks\.\d+\."
DOUBLE, SINGLE = r"transformer_blocks\.\d+\.", r"single_transformer_blocks\.\d+\."
QKVO = r"attn\.(to_q|to_k|to_v|to_out\.0)"
TARGETS = {
    "OminiControl": (
        rf"x_embedder|{DOUBLE}(norm1\.linear|{QKVO}|ff\.net\.2)|{SINGLE}(norm\.linear|proj_mlp|proj_out|{QKVO})",
        {4: 14.5, 16: 58, 64: 232, 128: 464, 512: 1854},
    ),
    "attention": (rf"{BLOCK}{QKVO}", {4: 4.7, 16: 18.7, 64: 74.7, 128: 149, 512: 598}),
    "attention, text, feed-forward": (
        rf"{BLOCK}attn\.(to_|add_)(q|k|v|out\.0|q_proj|k_proj|v_proj|add_out)|{DOUBLE}ff(_context)?\.net\.(0\.proj|2)",
        {4: 11.2, 16: 44.8, 64: 179, 128: 359, 512: 1435},
    ),
    "blocks": ("blocks", {4: 21.5, 16: 86, 64: 344, 128: 687, 512: 2749}),
}


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def flux():
    return skeleton("flux.1-dev")


def forward(student, *size, **arguments):
    batch = blank_batch(student, *size, **arguments)
    with torch.no_grad():
        return tflop(lambda: counting._loss(student, batch))


@pytest.mark.parametrize(
    ("num_tokens", "published"),
    [(1536, 21.5), (2560, 37.6), (4608, 74.4), (8704, 165.4)],
    ids=["512", "2x512", "1024", "2x1024"],
)
def test_the_formula_gives_the_published_table(num_tokens, published):
    assert forward_tflop(3072, 57, num_tokens) == pytest.approx(published, abs=0.06)


def test_the_formula_gives_another_library_s_count_of_50_steps():
    """cache-dit publishes 3726.87 TFLOP for FLUX.1-dev, 1024 px, 50 steps."""
    assert 50 * forward_tflop(3072, 57, 4608) == pytest.approx(3726.87, rel=0.005)


def test_flux_has_its_published_size():
    backbone = skeleton("black-forest-labs/FLUX.1-dev", parts=("denoiser", "vae", "text"))
    parts = (backbone.denoiser, backbone.vae, backbone.text_encoder, backbone.text_encoder_2)
    sizes = [num_parameters(part) / 1e6 for part in parts]
    assert sizes == pytest.approx([11901.4, 83.8, 123.1, 4762.3], abs=0.06)
    assert {p.device.type for p in backbone.parameters()} == {"meta"}


def test_full_training_of_one_frame(flux):
    """Three times the forward pass; the formula leaves out 0.1 %: embedders, output, modulation."""
    found = count(copy.deepcopy(flux), "concat", train="full")
    assert found.num_tokens == 1536
    assert found.base_parameters == pytest.approx(11.90e9, rel=0.001)
    assert found.added_parameters == 64 * 3072
    assert found.trained_parameters == found.base_parameters + found.added_parameters
    assert found.formula_tflop == pytest.approx(21.48, abs=0.01)
    embedders = 2 * 3072 * (512 * 4096 + 1024 * (128 + 64)) + 2 * 3072**2 * (19 * 12 + 38 * 3 + 2)
    times = 2 * (3 * (256 * 3072 + 3072**2) - 256 * 3072 + 768 * 3072)  # time, guidance, pooled text
    assert found.forward_tflop - found.formula_tflop == pytest.approx((embedders + times) / 1e12, rel=1e-6)
    assert found.step_tflop == pytest.approx(3 * found.forward_tflop, rel=0.002)


def test_two_frames_cost_as_much_as_tokens_beside(flux):
    """Checkpointed training is published as three forward passes (LoRA) to four (full): 113 to 150 TFLOP."""
    found = count(copy.deepcopy(flux), "parallel", lora={"rank": 128}, gradient_checkpointing=True)
    assert found.num_tokens == 2560
    assert found.formula_tflop == pytest.approx(37.6, abs=0.05)
    matrices = 19 * 8 + 38 * 3
    assert found.added_parameters == matrices * 2 * 3072 * 128 + 64 * 3072
    assert found.trained_parameters == found.added_parameters + 64 * 3072 + 3072
    assert 113 < found.step_tflop < 150
    attention = 57 * 4 * 3072 * 2560**2 / 1e12  # its backward pass has four products for two
    adapters = 2 * 2560 * matrices * 2 * 3072 * 128 / 1e12
    assert found.step_tflop == pytest.approx(3 * found.forward_tflop + attention + adapters, rel=0.005)
    beside = meta_student(copy.deepcopy(flux), "token_concat", train="full")
    assert forward(beside, 512, 512) == pytest.approx(found.formula_tflop, rel=0.002)
    assert forward(beside, 1024, 1024) == pytest.approx(165.4, rel=0.002)
    assert forward(beside, 512, 512, num_references=2) == pytest.approx(
        forward_tflop(3072, 57, 3584), rel=0.002
    )


@pytest.mark.parametrize(
    ("double", "single", "billions"), [(2, 0, 0.74), (4, 0, 1.44), (4, 10, 2.95), (5, 10, 3.3)]
)
def test_controlnet(flux, double, single, billions):
    spec = {"name": "controlnet", "num_layers": double, "num_single_layers": single}
    student = meta_student(copy.deepcopy(flux), spec, train="added")
    assert num_parameters(student.conditioning) / 1e9 == pytest.approx(billions, abs=0.03)
    if (double, single) == (4, 10):
        formula = forward_tflop(3072, 57 + 14, 1536)
        assert formula == pytest.approx(26.7, abs=0.1)
        residuals = 14 * 2 * 3072**2 * 1024 / 1e12  # a layer after each block of the network
        embedders = 2 * (2 * 512 * 4096 + 1024 * 4 * 64) * 3072 / 1e12
        assert forward(student, 512, 512) == pytest.approx(formula + residuals + embedders, rel=0.001)


def test_ip_adapter(flux):
    clip = {"model": str(counting.CONFIGS / "clip-vit-large-patch14")}
    spec = {"name": "ip_adapter", "tokens": "pooled", "encoder": clip}
    seen = Reference(tokens=torch.empty(1, 1, 768))
    found = count(copy.deepcopy(flux), spec, train="added", reference=seen)
    assert found.added_parameters / 1e9 == pytest.approx(0.49, abs=0.005)
    assert found.trained_parameters == found.added_parameters - 19 * 3072  # the keys' biases are not trained
    assert found.forward_tflop == pytest.approx(21.5, abs=0.05)


@pytest.mark.parametrize("name", TARGETS)
def test_lora_sizes(flux, name):
    pattern, published = TARGETS[name]
    denoiser = copy.deepcopy(flux).denoiser
    with torch.device("meta"):
        add_lora(denoiser, dict(FluxBackbone.lora_targets), rank=4, targets=pattern)
    added = sum(p.numel() for p in lora_parameters(denoiser).values())
    for rank, millions in published.items():
        rounding = 0.05 if isinstance(millions, float) else 0.6  # as published
        assert added * rank / 4e6 == pytest.approx(millions, abs=rounding), rank


def test_attention_is_counted():
    """On a CPU its fused kernel has no formula and would count as nothing; on the meta device it has one."""
    x = torch.empty(2, 3, 40, 16, device="meta", requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    once = 2 * 2 * 2 * 3 * 40 * 40 * 16 / 1e12
    assert tflop(lambda: attend(x, x, x)) == pytest.approx(once)
    mask = torch.ones(2, 1, 1, 40, dtype=torch.bool)
    assert tflop(lambda: attend(x, x, x, attn_mask=mask)) == pytest.approx(once)
    assert tflop(lambda: attend(x, x, x).sum().backward()) == pytest.approx(3 * once)


def test_frozen_layers_have_no_weight_gradients():
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)).to("meta")
    layers.requires_grad_(False)
    layers[1].requires_grad_(True)
    product = 2 * 4 * 8 * 8 / 1e12
    assert tflop(lambda: layers(torch.ones(4, 8)).sum().backward()) == pytest.approx((3 + 2) * product)


@pytest.mark.parametrize("spec", ["parallel", "concat", "token_concat", "controlnet"])
def test_the_same_is_counted_on_real_weights(tiny_flux, spec, monkeypatch):
    """Without fused attention, for which the counter has no formula on a CPU."""
    arguments = {"train": "full", "text_dropout": 0.0, "reference_dropout": 0.0}
    on_meta = meta_student(str(tiny_flux), spec, **arguments)
    batch = blank_batch(on_meta, 32, 48, batch_size=2, text_tokens=24)
    real = counting.Student(str(tiny_flux), spec, **arguments)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            counting._loss(real, batch).backward()
    assert tflop(lambda: counting._loss(on_meta, batch).backward()) * 1e12 == counter.get_total_flops()


def test_gradient_checkpointing_adds_a_forward_pass(tiny_flux):
    plain, twice = (
        count(
            str(tiny_flux),
            "parallel",
            height=32,
            width=32,
            text_tokens=24,
            train="full",
            gradient_checkpointing=on,
        )
        for on in (False, True)
    )
    assert plain.forward_tflop == twice.forward_tflop
    blocks = twice.step_tflop - plain.step_tflop
    assert 0.8 * plain.forward_tflop < blocks < plain.forward_tflop


def test_unknown_configurations_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no configuration 'flux.9'. Give 'flux.1-dev', 'mini', or a"
    ):
        skeleton("flux.9")
