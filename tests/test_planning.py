"""A plan says what a training takes; what can be measured here is measured."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import dsd
from dsd import mini
from dsd.backbones.base import Reference
from dsd.cli import main
from dsd.counting import skeleton
from dsd.data.encoded import EncodedPairs
from dsd.memory import OTHER, PeakMemory
from dsd.planning import data, planner, records, report, stated
from dsd.planning.quantized import QuantizedLinear, quantize_frozen
from dsd.planning.sharing import shared
from dsd.planning.step import BACKWARD, FORWARD, OPTIMISER, TrackedStep, encoded_batch, fake_student, track
from dsd.planning.vision import seen_tokens
from tests.test_encode import pair_run, some_pairs

MEASURE = Path(__file__).with_name("planning_measure.py")
MINI = {"base": "mini", "size": 64, "text_tokens": 32}
MEDIUM = {"base": "medium", "text_tokens": 64}
SETTINGS = {
    "mini parallel lora": {**MINI, "lora": 8, "batch": 8, "precision": "fp32"},
    "mini concat full": {
        **MINI, "conditioning": "concat", "batch": 6, "precision": "fp32", "checkpointing": False
    },
    "parallel lora": {**MEDIUM, "size": 256, "lora": 16, "batch": 2},
    "parallel full": {**MEDIUM, "size": 128, "batch": 2, "checkpointing": False},
    "controlnet": {
        **MEDIUM, "conditioning": "controlnet", "train": "added", "size": 128, "batch": 2, "precision": "fp32"
    },
    "ip_adapter": {
        **MEDIUM, "conditioning": "ip_adapter", "train": "added", "size": 128, "batch": 4,
        "precision": "fp32", "checkpointing": False,
    },
    "token_concat lora": {
        **MEDIUM, "conditioning": "token_concat", "lora": 32, "size": 256, "checkpointing": False
    },
    "token_concat full ddp": {
        **MEDIUM, "conditioning": "token_concat", "size": 128, "precision": "fp32", "strategy": "ddp"
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """Configurations of a FLUX model of 54 million weights, without weights."""
    folder = tmp_path_factory.mktemp("medium")
    for path in mini.path().rglob("*.json"):
        (folder / path.relative_to(mini.path())).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.relative_to(mini.path()))
    config = folder / "transformer" / "config.json"
    sizes = {
        "attention_head_dim": 64, "num_attention_heads": 8, "num_layers": 3, "num_single_layers": 6,
        "axes_dims_rope": [8, 28, 28], "joint_attention_dim": 512,
    }  # fmt: skip
    config.write_text(json.dumps(json.loads(config.read_text()) | sizes))
    return str(folder)


def shapes(base, conditioning, size):
    """Of the encodings of a pair."""
    backbone = skeleton(base, parts=("denoiser", "vae"))
    spec, seen = seen_tokens(conditioning, backbone.denoiser.config.joint_attention_dim, 1)
    student = fake_student(backbone, spec, "fp32")
    reference = None if seen is None else Reference(tokens=seen)
    batch = encoded_batch(student, "fp32", size, size, reference=reference)
    tensors = {name: x.shape[1:] for name, x in vars(batch.reference).items() if x is not None}
    return {"target": batch.target.shape[1:], "reference": tensors}


@pytest.mark.slow
def test_predicted_memory_is_what_the_allocator_gave(medium):
    """Eight settings were within 0.6 %. What a plan leaves out is kernels' own workspace."""
    settings = [
        given | ({"base": medium} if given["base"] == "medium" else {}) for given in SETTINGS.values()
    ]
    plans = [dsd.plan(**given, kernels="cpu") for given in settings]
    asked = [
        {**plan.setting, "shapes": shapes(*(plan.setting[name] for name in ("base", "conditioning", "size")))}
        for plan in plans
    ]
    done = subprocess.run(
        [sys.executable, str(MEASURE), json.dumps(asked)], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    ratios = {name: plan.memory.peak / x for name, plan, x in zip(SETTINGS, plans, measured, strict=True)}
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), abs=0.02)


@pytest.fixture(scope="module")
def small(tiny_flux):
    """A plan of the random pipeline of a few thousand weights."""
    return dsd.plan(str(tiny_flux), lora=4, size=32, text_tokens=24, batch=2, device="a100-40", steps=1000)


def tracked(base, conditioning="concat", precision="bf16", batch=2, kernels="cuda", quantize=None, **student):
    fake = fake_student(skeleton(str(base), parts=("denoiser", "vae")), conditioning, precision, **student)
    encoded = encoded_batch(fake, precision, 32, 32, batch_size=batch, text_tokens=24)
    fake.backbone.release("vae")
    sizes = {p: (p.numel(), p.requires_grad) for p in fake.denoiser.parameters()}
    step = track(fake, encoded, autocast=precision == "bf16", kernels=kernels, quantize=quantize)
    return step, sizes.values()


def most(step, part, phase=None):
    number = ("weights", "trained", "gradients", "optimiser", OTHER).index(part)
    return max(parts[number] for name, parts in step.moments if phase in (None, name))


def test_parts_are_the_sums_of_their_tensors(tiny_flux):
    step, sizes = tracked(tiny_flux, lora={"rank": 4})
    trained = sum(number for number, is_trained in sizes if is_trained)
    frozen = sum(number for number, is_trained in sizes if not is_trained)
    assert step.num_trained == trained
    assert most(step, "trained") == 4 * trained
    assert most(step, "gradients") == 4 * trained
    assert most(step, "weights") == 2 * frozen
    states = sum(is_trained for _, is_trained in sizes)
    assert most(step, "optimiser") == 8 * trained + 4 * states  # two moments, and a count for each tensor


def test_old_gradients_live_through_the_forward_pass(tiny_flux):
    """As Lightning has it: zero_grad comes between the two passes."""
    step, _ = tracked(tiny_flux)
    first = [parts[2] for phase, parts in step.moments if phase == FORWARD]
    assert set(first) == {4 * step.num_trained}
    assert min(parts[2] for phase, parts in step.moments if phase == BACKWARD) == 0
    assert step.moments[-1][0] == OPTIMISER
    assert step.moments[-1][1][2] == 4 * step.num_trained


def test_checkpointing_and_batch(tiny_flux):
    plain, checkpointed, larger = (
        most(tracked(tiny_flux, batch=batch, gradient_checkpointing=on, lora={"rank": 4})[0], OTHER, FORWARD)
        for on, batch in ((False, 2), (True, 2), (False, 4))
    )
    assert checkpointed < plain
    assert 1.5 * plain < larger < 2 * plain


def test_norms_take_more_under_the_rules_of_cuda(tiny_flux):
    on_cuda, on_cpu = (
        most(tracked(tiny_flux, kernels=kernels)[0], OTHER, FORWARD) for kernels in ("cuda", "cpu")
    )
    assert on_cuda > 1.05 * on_cpu
    same = [
        most(tracked(tiny_flux, precision="fp32", kernels=kernels)[0], OTHER, FORWARD)
        for kernels in ("cuda", "cpu")
    ]
    assert same[0] == same[1]


def test_no_other_function_of_a_step_has_a_rule_of_its_own_on_cuda(tiny_flux):
    """PyTorch's header lists what CUDA's autocast computes in float32."""
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    text = header.read_text()
    listed = text[text.index("define AT_FORALL_FP32(") :]
    listed = set(re.findall(r"_\((\w+)", listed[: listed.index("\n\n")]))
    assert {"layer_norm", "rms_norm", "pow"} <= listed

    called = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            floats = [x for x in args if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16]
            if floats and torch.is_autocast_enabled("cpu"):
                called.add(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Watch():
        tracked(tiny_flux, kernels="cpu")
    assert {"layer_norm", "rms_norm"} <= called
    assert called & listed <= {"layer_norm", "rms_norm"}


@pytest.mark.parametrize(
    ("how", "per_weight", "per_output"), [("nf4", 0.5 + 4 / 64, 0), ("int8", 1, 4), ("fp8", 1, 4)]
)
def test_quantised_layers_keep_what_their_kernels_keep(how, per_weight, per_output):
    layers = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 64), nn.Linear(64, 2)).to("meta", torch.bfloat16)
    layers.requires_grad_(False)
    layers[2].requires_grad_(True)
    assert quantize_frozen(layers, how, torch.bfloat16) == 2
    assert isinstance(layers[2], nn.Linear)
    sizes = [sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in layers]
    assert sizes[0] == 128 * 64 * per_weight + 64 * per_output + 64 * 2
    assert sizes[2] == 2 * (128 + 2)


def test_an_unpacked_weight_lives_for_one_product_alone():
    layer = QuantizedLinear(nn.Linear(256, 512, bias=False), "nf4", torch.float32)
    x = torch.ones(1, 256, requires_grad=True)
    with PeakMemory() as memory:
        y = layer(x)
        forward, memory.peak = memory.peak, 0
        kept = memory.now["activations"]
        y.backward(torch.ones_like(y))
    assert forward >= 256 * 512 * 4
    assert kept < 16_000
    assert memory.peak >= 256 * 512 * 4  # once more


@pytest.mark.parametrize("how", ["nf4", "int8", "fp8"])
def test_a_quantised_base_trains_with_less(tiny_flux, how):
    lora = {"rank": 4}
    plain, packed = (tracked(tiny_flux, lora=lora, quantize=given)[0] for given in (None, how))
    assert most(packed, "weights") < 0.8 * most(plain, "weights")
    assert most(packed, "trained") == most(plain, "trained")
    assert packed.num_trained == plain.num_trained


STEP = TrackedStep(
    moments=(
        ("", (100, 10, 10, 20, 1)),
        (FORWARD, (100, 10, 10, 20, 60)),
        (BACKWARD, (100, 10, 10, 20, 80)),
        (OPTIMISER, (100, 10, 10, 20, 8)),
    ),
    num_trained=5,
    block_bytes=7,
    block_trained=2,
    rest_bytes=3,
)


def test_what_a_strategy_adds_and_divides():
    alone = shared(STEP, "single", 1, False)
    assert (alone.peak, alone.phase, alone.at_peak["activations"]) == (220, BACKWARD, 80)
    assert sum(alone.at_peak.values()) == alone.peak
    assert alone.most["activations"] == 80
    buckets = shared(STEP, "ddp", 8, False)
    assert (buckets.peak, buckets.at_peak["exchange"]) == (220 + 4 * 5, 20)
    divided = shared(STEP, "fsdp", 4, False)
    assert divided.at_peak == {
        "weights": 25, "trained": 3, "gradients": 3, "optimiser": 5, "activations": 80,
        "exchange": 2 * 7 + 3 + 2 * 2 * 4,
    }  # fmt: skip
    assert [moment.total for moment in divided.timeline] == [
        25 + 3 + 3 + 5 + 60 + 17,
        149,
        25 + 3 + 3 + 5 + 2,
    ]
    half = shared(STEP, "fsdp", 4, True)  # tracked in bfloat16: float32 shards are twice as large
    assert (half.at_peak["trained"], half.at_peak["optimiser"], half.at_peak["weights"]) == (5, 10, 25)
    assert half.at_peak["exchange"] == 2 * 7 + 3 + 2 * 2 * 2


def test_a_thinned_timeline_keeps_the_peak():
    moments = tuple((FORWARD, (0, 0, 0, 0, 5000 if i == 777 else i)) for i in range(2001))
    moments += ((OPTIMISER, (0, 0, 0, 0, 1)),)
    memory = shared(dataclasses.replace(STEP, moments=moments), "single", 1, False)
    assert memory.timeline[-1].phase == OPTIMISER
    assert len(memory.timeline) <= 401
    assert max(moment.total for moment in memory.timeline) == memory.peak == 5000


def test_rates_and_prices_follow_from_what_is_stated(tiny_flux, small):
    training = small.training
    assert training.step_s == pytest.approx(training.step_tflop / (312 * 0.4))
    assert training.days == pytest.approx(1000 * training.step_s / 86400)
    assert training.usd == pytest.approx(training.device_hours * stated.DEVICES["a100-40"].usd_per_hour)
    assert training.pairs_per_s == pytest.approx(2 / training.step_s)
    assert small.data.grids == 66_667
    assert small.data.candidates == 800_004
    assert small.data.judge_usd == pytest.approx(800.004)
    hours = small.data.grids * small.data.grid_tflop / (312 * 0.45) / 3600
    assert small.data.draw_device_hours == pytest.approx(hours)
    assert small.fits
    assert small.device_bytes == 40 * 2**30
    given = {"lora": 4, "size": 32, "text_tokens": 24, "batch": 2}
    peak_gib = small.memory.peak / records.GIB
    tight = dsd.plan(
        str(tiny_flux), **given, device_gib=peak_gib * 1.05, device_tflops=1.0, kept=1.0, devices=2
    )
    assert not tight.fits
    assert tight.setting["strategy"] == "ddp"
    assert tight.training.step_s == pytest.approx(tight.training.step_tflop / 0.4)
    assert tight.training.pairs_per_s == pytest.approx(2 * 2 / tight.training.step_s)
    assert tight.training.device_hours == pytest.approx(2 * 24 * tight.training.days)
    assert tight.data.grids == 33_334


def test_a_grid_of_flux_costs_what_is_published():
    """2,087 TFLOP for 28 steps at 1024 px; autoencoder and text encoders come on top."""
    whole = data.grid_tflop(skeleton("flux.1-dev", parts=("denoiser", "vae", "text")), 1024, 1024, 28, 512)
    assert whole == pytest.approx(2087, rel=0.01)
    assert whole > 28 * 74.4


def test_rows_are_as_large_as_those_that_encode_writes(tiny_flux, tmp_path):
    run = pair_run(tmp_path / "run", some_pairs(sizes=(64,) * 5))
    dsd.encode(run, {"name": "flux", "base": str(tiny_flux)}, "parallel", dtype="bfloat16", progress=False)
    cache = EncodedPairs.find(run.path)
    planned = dsd.plan(
        str(tiny_flux), size=64, text_tokens=24, pairs=5, layout="1x2", pairs_per_grid=1, kept=1.0, lora=4
    ).disk
    for table, size in (
        (cache.pairs, planned.target),
        (cache.references, planned.reference),
        (cache.texts, planned.text),
    ):
        rows = len(table)
        written = sum(path.stat().st_size for path in table.folder.glob("*.parquet"))
        statistics = 4 * min(size, 4096)  # Parquet repeats least and greatest cells of short columns
        assert 0 < written - rows * size < 2500 + 60 * rows + statistics
    assert (planned.references, planned.captions) == (5, 6)
    assert planned.cache == 5 * planned.target + 5 * planned.reference + 6 * planned.text


def test_the_cache_of_the_paper(small):
    """A frame of 512 px has 16 x 64 x 64 latents; the canvas of a parallel reference two of them."""
    frame, token = 16 * 64 * 64 * 2, 4096 * 2
    target, reference = torch.zeros(16, 64, 64).bfloat16(), torch.zeros(16, 64, 128).bfloat16()
    text = {"tokens": torch.zeros(128, 4096).bfloat16(), "pooled": torch.zeros(768).bfloat16()}
    sizes = [data.row_bytes(x) for x in ({"target": target}, {"latents": reference}, text)]
    assert sizes == pytest.approx([frame, 2 * frame, 128 * token + 768 * 2], abs=300)


def test_the_encoder_of_an_ip_adapter_needs_no_weights():
    spec, tokens = seen_tokens("ip_adapter", 4096, 3)
    assert tokens.shape == (3, 729, 1152)
    assert spec["encoder"].endswith("siglip-so400m-patch14-384")
    _, pooled = seen_tokens(
        {"name": "ip_adapter", "tokens": "pooled", "encoder": "openai/clip-vit-large-patch14"}, 4096, 1
    )
    assert pooled.shape == (1, 1, 768)
    assert seen_tokens("concat", 4096, 1) == ("concat", None)
    assert seen_tokens("ip_adapter", 128, 2)[1].shape[:2] == (2, 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "abacus"}, "No rates are known of the device 'abacus'. Known: a100-40"),
        ({"size": 100}, "`size` must be a multiple of 16 px; got 100"),
        ({"batch": 0}, "`batch` must be at least 1; got 0"),
        ({"mfu": 1.2}, "`mfu` is a share"),
        ({"devices": 2, "strategy": "single"}, "2 devices need the strategy 'ddp' or 'fsdp'"),
        ({"pairs_per_grid": 13}, "A 2x2 grid gives at most 12 pairs"),
        ({"layout": "1x1"}, "at least 2 panels to give a pair; got layout='1x1'"),
        ({"quantize": "nf4"}, "quantize='nf4' needs a frozen base"),
        ({"headroom": -1.0}, "`headroom` must be at least 0"),
        ({"device_gib": 0.0}, "`device_gib` must be above 0"),
        ({"base": "flux.9"}, "no configuration 'flux.9'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_explained(given, message):
    with pytest.raises((ValueError, LookupError, FileNotFoundError), match=re.escape(message)):
        dsd.plan(**given)


@pytest.mark.parametrize(
    ("name", "value"), [("quantize", "int2"), ("strategy", "zero"), ("precision", "fp4")]
)
def test_choices_that_do_not_exist_are_named(small, name, value):
    with pytest.raises(ValueError, match=f"Unknown {name}='{value}'. Allowed: '"):
        planner._check({**small.setting, name: value}, 4)


def test_the_page_says_what_the_plan_says(small, tmp_path):
    folder = dsd.planning.write(small, tmp_path / "out")
    stored = json.loads((folder / "plan.json").read_text())
    assert stored["memory"]["peak"] == small.memory.peak
    assert stored["setting"]["lora"] == 4
    page = (folder / "plan.md").read_text()
    assert f"| peak | {small.memory.peak / 2**30:,.2f} |" in page
    assert "$800" in page
    assert "It fits" in page
    assert "kept 0.5" in page
    image = Image.open(io.BytesIO((folder / "plan.png").read_bytes())).convert("RGB")
    colours = {tuple(colour) for _, colour in image.getcolors(1 << 20)}
    assert image.size == (1152, 576)
    assert len(colours) > 20
    not_fitting = dataclasses.replace(small, fits=False)
    assert report.verdict(not_fitting).startswith("It does not fit")


def test_the_command_line(tiny_flux, tmp_path, capsys):
    words = ["plan", "--base", str(tiny_flux), "--lora", "4", "--size", "32", "--text-tokens", "24"]
    assert main([*words, "--json", "--quantize", "nf4", "--devices", "8", "--strategy", "fsdp"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["setting"]["strategy"] == "fsdp"
    assert found["setting"]["quantize"] == "nf4"
    assert found["memory"]["at_peak"]["exchange"] > 0
    assert main([*words, "--out", str(tmp_path / "plan")]) == 0
    shown = capsys.readouterr().out
    assert "Memory of one device" in shown
    assert "peak" in shown
    assert (tmp_path / "plan" / "plan.png").is_file()
    assert main(["plan", "--base", "flux.9"]) == 2
    assert "There is no configuration 'flux.9'" in capsys.readouterr().err
