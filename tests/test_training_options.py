"""Each option of training against an independent computation."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor, nn

from dsd import flow, optimizers, quantization, recomputing
from dsd.backbones import FluxBackbone
from dsd.ema import Ema
from dsd.randomness import draw, generator
from tests.test_student import LORA, Batches, Loader, _batch, _student, _trainer

NO_DROPOUT = {"text_dropout": 0.0, "reference_dropout": 0.0}


def _g(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Laws of time and weights of the loss


def test_mode_law_equals_diffusers() -> None:
    theirs = compute_density_for_timestep_sampling("mode", 500, mode_scale=1.29, generator=_g())
    assert torch.equal(flow.sample_times(500, "mode", generator=_g()), theirs)
    with pytest.raises(ValueError, match="from -1 to"):
        flow.sample_times(1, "mode", scale=2.0)


@pytest.mark.parametrize("law", ["sigma_sqrt", "cosmap", "none"])
def test_weights_of_sd3_equal_diffusers(law: str) -> None:
    t = torch.linspace(0.001, 1, 50)
    torch.testing.assert_close(flow.loss_weights(t, law), compute_loss_weighting_for_sd3(law, t))
    assert flow.loss_weights(torch.zeros(1), law).isfinite().all()


def test_min_snr_is_the_clean_pictures_error_times_the_clipped_ratio() -> None:
    """In the space of the clean picture, where Hang et al. define it; theirs knows alpha and sigma."""
    t = torch.rand(8, generator=_g(), dtype=torch.float64) * 0.98 + 0.01
    x_0, noise, wrong = torch.randn(3, 8, 5, generator=_g(), dtype=torch.float64)
    x_t = flow.interpolate(x_0, noise, t)
    predicted = flow.velocity(x_0, noise) + wrong
    clean = x_t - t[:, None] * predicted
    snr = ((1 - t) / t) ** 2
    expected = ((clean - x_0) ** 2).mean(1) * snr.clamp(max=5.0)
    ours = (wrong**2).mean(1) * flow.loss_weights(t, "min_snr", gamma=5.0)
    torch.testing.assert_close(ours, expected)
    assert ours[snr > 5].numel()
    assert ours[snr < 5].numel()


def test_weights_of_elements_enter_the_loss() -> None:
    predicted, truth = torch.randn(2, 3, 4, 6, 8, generator=_g())
    weights = torch.tensor([0.5, 2.0, 7.0])
    total, frames = flow.loss([predicted, predicted], [truth, truth + 1], [1.0, 3.0], weights)
    errors = [(predicted - truth) ** 2, (predicted - truth - 1) ** 2]
    by_hand = [
        sum(w * e for w, e in zip(weights, error.mean((1, 2, 3)), strict=True)) / 3 for error in errors
    ]
    torch.testing.assert_close(total, by_hand[0] / 4 + by_hand[1] * 3 / 4)
    torch.testing.assert_close(frames, torch.stack([error.mean() for error in errors]))


def test_loss_weighting_of_a_student(tiny_flux: Path) -> None:
    """The weighted mean over single losses, each at the time that it drew."""
    student = _student(tiny_flux, loss_weighting={"law": "min_snr", "gamma": 2.0}, **NO_DROPOUT)
    plain = _student(tiny_flux, **NO_DROPOUT)
    batch = _batch()
    each = [plain.losses(batch[i], [_g(i)])[0] for i in range(4)]
    times = torch.cat([torch.sigmoid(torch.randn(1, generator=_g(i))) for i in range(4)])
    weights = torch.minimum((1 - times) ** 2, 2.0 * times**2)
    total, _ = student.losses(batch, [_g(i) for i in range(4)])
    torch.testing.assert_close(total, (torch.stack(each) * weights).mean())


# Randomness


def test_a_pair_draws_the_same_whatever_its_neighbours(tiny_flux: Path) -> None:
    arguments: dict[str, Any] = {"text_dropout": 0.5, "reference_dropout": 0.5, "guidance": (1.0, 5.0)}
    student = _student(tiny_flux, **arguments)
    batch = _batch()
    each = [student.losses(batch[i], [_g(i)])[0] for i in range(4)]
    together = student.losses(batch, [_g(i) for i in range(4)])[0]
    torch.testing.assert_close(together, torch.stack(each).mean())
    with pytest.raises(ValueError, match="3 generators for 4"):
        student.losses(batch, [_g()] * 3)


def test_draws_follow_from_the_purpose_alone() -> None:
    cpu = torch.device("cpu")
    numbers = {
        torch.rand(1, generator=generator(cpu, *p)).item() for p in [(0, "a", 1), (0, "a", 2), (1, "a", 1)]
    }
    assert len(numbers) == 3
    one = lambda part, g: torch.rand(2, part.stop - part.start, generator=g)  # noqa: E731
    parts = draw([_g(0), _g(1)], 2, one, dim=1)
    assert torch.equal(parts[:, :1], torch.rand(2, 1, generator=_g(0)))
    assert torch.equal(parts[:, 1:], torch.rand(2, 1, generator=_g(1)))


def test_shares_of_dropout(tiny_flux: Path) -> None:
    """Of many pairs, as many as asked for lose caption or reference, independently."""
    student = _student(tiny_flux, text_dropout=0.3, reference_dropout=0.2)
    seen: list[Tensor] = []
    conditioning = student.conditioning

    def look(backbone: Any, x_t: Tensor, t: Tensor, reference: Any, text: Any, guidance: Any) -> Tensor:
        empty = student._empty_text(torch.device("cpu")).pooled
        hidden = ~reference.latents.flatten(1).any(1)
        seen.append(torch.stack([hidden, (text.pooled == empty).all(1)]))
        return x_t

    conditioning.velocity = look  # type: ignore[method-assign]
    for i in range(100):
        student.losses(_batch(16), _g(i))
    hidden, wordless = torch.cat(seen, 1).float()
    assert (hidden.mean(), wordless.mean()) == (pytest.approx(0.2, abs=0.03), pytest.approx(0.3, abs=0.03))
    assert (hidden * wordless).mean() == pytest.approx(0.06, abs=0.02)


def test_guidance_constant_and_sampled(tiny_flux: Path) -> None:
    """A range told by pair is the same as telling each pair its number."""
    ranged = _student(tiny_flux, guidance=(2.0, 6.0), **NO_DROPOUT)
    told = ranged.objective.sample_guidance(500, _g())
    assert isinstance(told, Tensor)
    torch.testing.assert_close(told, 2 + 4 * torch.rand(500, generator=_g()))
    values: list[Any] = []
    call = ranged.backbone.call
    ranged.backbone.call = lambda *a, **k: (values.append(a[4]), call(*a, **k))[1]  # type: ignore[method-assign]
    ranged.losses(_batch(), [_g(i) for i in range(4)])
    singles = [
        _student(tiny_flux, guidance=float(value), **NO_DROPOUT).losses(_batch()[i], [_g(i)])[0]
        for i, value in enumerate(values[0])
    ]
    torch.testing.assert_close(
        ranged.losses(_batch(), [_g(i) for i in range(4)])[0], torch.stack(singles).mean()
    )
    assert len(set(values[0].tolist())) == 4


def test_accumulated_batches_train_as_whole_ones(tiny_flux: Path, tmp_path: Path) -> None:
    """Two halves make the step of the whole: same draws, same gradient; in float64, since Adam divides small
    gradients by themselves and so makes steps of what float32 rounds.
    """
    halves = [_batch(seed=i)[part] for i in range(3) for part in (slice(0, 2), slice(2, 4))]
    whole = _student(tiny_flux, seed=5).double()
    _trainer(tmp_path, 3).fit(whole, Batches(*[_batch(seed=i) for i in range(3)]))
    parts = _student(tiny_flux, seed=5).double()
    _trainer(tmp_path, 3, accumulate_grad_batches=2).fit(parts, Batches(*halves))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, atol=1e-10, rtol=0, msg=name)


# Memory


def _gradients(tiny_flux: Path, **arguments: Any) -> tuple[dict[str, Tensor], int]:
    """Gradients of one step, and how many bytes were kept for the backward pass."""
    student = _student(tiny_flux, **NO_DROPOUT, **arguments)
    with torch.no_grad():
        for p in student._trained.values():
            p += 0.1 * torch.randn(p.shape, generator=_g())
    kept: dict[int, int] = {}
    weights = {p.data_ptr() for p in student.parameters()}

    def keep(x: Tensor) -> Tensor:
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss, _ = student.losses(_batch(), _g())
    loss.backward()
    return {name: p.grad for name, p in student._trained.items() if p.grad is not None}, sum(kept.values())


def test_checkpointing_keeps_less_and_changes_no_gradient(tiny_flux: Path) -> None:
    plain, most = _gradients(tiny_flux)
    kept = {}
    for what in (True, 2, "selective"):
        gradients, kept[what] = _gradients(tiny_flux, gradient_checkpointing=what)
        assert gradients.keys() == plain.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(gradients[name], gradient, msg=f"{what} {name}")
    assert kept[True] < kept[2] < most  # of "selective", PyTorch shows these hooks a part; see below
    with pytest.raises(ValueError, match="every n-th block"):
        _student(tiny_flux, gradient_checkpointing="some")


def _products(model: nn.Module, block: nn.Module, what: Any) -> int:
    """How many matrix products forward and backward take together."""
    from torch.utils.flop_counter import FlopCounterMode

    recomputing.enable(model, what)
    x = torch.randn(1, 6, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        run = model._gradient_checkpointing_func if what else (lambda module, *args: module(*args))
        run(block, x).sum().backward()
    return counter.get_total_flops()


def test_selective_computes_every_second_product_again() -> None:
    """Four equal layers: forward 4, backward 8 products; all checkpointed 4 more, selectively 2 more."""

    class Stack(nn.Module):
        _gradient_checkpointing_func: Any = None

        def __init__(self) -> None:
            super().__init__()
            layers = [module for _ in range(4) for module in (nn.Linear(16, 16), nn.SiLU())]
            self.blocks = nn.ModuleList([nn.Sequential(*layers)])

        def enable_gradient_checkpointing(self, function: Any = None) -> None:
            from torch.utils.checkpoint import checkpoint

            self._gradient_checkpointing_func = function or (
                lambda module, *args: checkpoint(module, *args, use_reentrant=False)
            )

    one = 2 * 6 * 16 * 16
    counts = {}
    for what in (False, True, "selective"):
        stack = Stack()
        counts[what] = _products(stack, stack.blocks[0], what) / one
    assert counts[False] == 12
    assert counts["selective"] == counts[False] + 2
    assert counts[False] + 3 <= counts[True] <= counts[False] + 4


def test_compiled_blocks_compute_the_same(tiny_flux: Path) -> None:
    plain = _student(tiny_flux)
    compiled = _student(tiny_flux, compile={"backend": "aot_eager"})
    blocks = recomputing.blocks(compiled.denoiser)
    assert len(blocks) == 2
    assert all(block._compiled_call_impl is not None for block in blocks)
    ours, theirs = (student.losses(_batch(), _g())[0] for student in (compiled, plain))
    torch.testing.assert_close(ours, theirs)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_average_on_the_cpu_stays_there_and_follows_the_same_formula() -> None:
    here, there = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    beside, apart = Ema([here], 0.5), Ema([there], 0.5, device="cpu")
    for step in range(4):
        with torch.no_grad():
            here += step
            there += step
        beside.update([here])
        apart.update([there])
    assert torch.equal(apart.averages[0], beside.averages[0])
    nn.ModuleList([apart, beside]).to("meta")
    assert apart.averages[0].device.type == "cpu"
    assert beside.averages[0].device.type == "meta"
    with pytest.raises(ValueError, match="beside the weights"):
        Ema([here], 0.5, device="cuda")


# Optimisers


class Free(torch.optim.SGD):
    """As schedule-free optimisers behave: in evaluation the weights are others than in training."""

    def __init__(self, params: Any, lr: float = 1.0, offset: float = 0.25) -> None:
        super().__init__(params, lr=lr)
        self.offset = offset
        for group in self.param_groups:
            group["train_mode"] = False

    @torch.no_grad()
    def _move(self, mode: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] != mode:
                for p in group["params"]:
                    p += self.offset * (-1 if mode else 1)
            group["train_mode"] = mode

    def train(self) -> None:
        self._move(True)

    def eval(self) -> None:
        self._move(False)


@pytest.mark.parametrize(
    ("spec", "cls", "lr"),
    [
        ("adamw", torch.optim.AdamW, 0.5),
        ({"name": "adamw", "lr": 0.1}, torch.optim.AdamW, 0.1),
        ({"name": "torch.optim:RMSprop", "alpha": 0.9}, torch.optim.RMSprop, 0.5),
        ("adafactor", torch.optim.Adafactor, 0.5),
    ],
)
def test_optimizers_by_name(spec: Any, cls: Any, lr: float) -> None:
    parameter = nn.Parameter(torch.ones(2))
    made = optimizers.create(spec, [parameter], lr=0.5, betas=(0.8, 0.9), weight_decay=0.3)
    assert type(made) is cls
    group = made.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (lr, 0.3)
    assert group.get("betas", (0.8, 0.9)) == (0.8, 0.9)
    assert group.get("alpha", 0.9) == 0.9


def test_prodigy_takes_no_rate_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("prodigyopt")
    package.Prodigy = Free  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prodigyopt", package)
    parameters = [nn.Parameter(torch.ones(2))]
    assert optimizers.create("prodigy", parameters, lr=1e-4).param_groups[0]["lr"] == 1.0
    assert optimizers.create({"name": "prodigy", "lr": 0.5}, parameters, lr=1e-4).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("adamwide", LookupError, "Allowed: adamw, sgd"),
        ("torch.optim:AdamWide", LookupError, "no class 'AdamWide'"),
        ({"name": "adamw", "rate": 1}, TypeError, "no argument 'rate'. Allowed: lr"),
        ("no_such_package:Optimizer", ModuleNotFoundError, "pip install 'no_such_package'"),
    ],
)
def test_optimizers_that_there_are_not(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimizers.create(spec, [nn.Parameter(torch.ones(1))], lr=1.0)


@pytest.mark.parametrize(("name", "extra"), [("adamw8bit", "bitsandbytes"), ("schedulefree", "optimizers")])
def test_missing_packages_of_optimizers_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    package = optimizers.KNOWN[name].partition(":")[0]
    monkeypatch.setitem(sys.modules, package.partition(".")[0], None)
    with pytest.raises(ModuleNotFoundError, match=rf"diffusion-self-distillation\[{extra}\]"):
        optimizers.create(name, [nn.Parameter(torch.ones(1))])


def test_schedule_free_averages_are_drawn_and_saved_with(tiny_flux: Path, tmp_path: Path) -> None:
    student = _student(tiny_flux, optimizer={"name": f"{__name__}:Free", "lr": 0.01})
    sys.modules.setdefault(__name__, sys.modules[Free.__module__])
    _trainer(tmp_path, 2).fit(student, Loader())
    before = {name: p.detach().clone() for name, p in student._trained.items()}
    assert student._built.param_groups[0]["train_mode"]  # type: ignore[union-attr]
    with student.ema_weights():
        for name, p in student._trained.items():
            torch.testing.assert_close(p.detach(), before[name] + 0.25)
    for name, p in student._trained.items():
        torch.testing.assert_close(p.detach(), before[name])


# Fewer bits


@pytest.mark.parametrize("name", quantization.SCHEMES)
def test_missing_packages_of_quantization_are_named(
    tiny_flux: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    package = "torchao" if "torchao" in name else "bitsandbytes"
    with pytest.raises(ModuleNotFoundError, match=rf"diffusion-self-distillation\[{package}\]"):
        _student(tiny_flux, quantization=name)
    with pytest.raises(ValueError, match="Allowed: nf4, int8"):
        _student(tiny_flux, quantization="int3")


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_configurations_of_bitsandbytes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("diffusers.BitsAndBytesConfig.post_init", lambda self: None)
    made = quantization.config({"name": name, "llm_int8_threshold": 4.0}, torch.bfloat16)
    assert (made.load_in_4bit, made.load_in_8bit) == (name == "nf4", name == "int8")
    assert made.llm_int8_threshold == 4.0
    assert set(made.llm_int8_skip_modules) >= {"x_embedder", "proj_out"}
    if name == "nf4":
        assert (made.bnb_4bit_quant_type, made.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


def test_what_a_quantised_student_saves_is_in_full_precision(
    tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the packages: the blocks' weights are rounded to quarters when they are loaded."""
    load = FluxBackbone._transformer

    def rounded(self: FluxBackbone, source: str, **where: Any) -> Any:
        kind, self.quantization = self.quantization, None
        model = load(self, source, **where)
        self.quantization = kind
        if kind is not None:
            for block in recomputing.blocks(model):
                for p in block.parameters():
                    p.data = (p.data * 4).round() / 4
        return model

    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(FluxBackbone, "_transformer", rounded)
    plain = _student(tiny_flux, ema_decay=0.5)
    student = _student(tiny_flux, ema_decay=0.5, quantization="nf4")
    name = "transformer_blocks.0.attn.to_q.base_layer.weight"
    stored = student.denoiser.get_parameter(name)
    assert torch.equal(stored, (plain.denoiser.get_parameter(name) * 4).round() / 4)
    _trainer(tmp_path, 2).fit(student, Loader())
    plain.load_state_dict(student.state_dict())
    student.save_pretrained(tmp_path / "quantised", components="trained")
    plain.save_pretrained(tmp_path / "plain", components="trained")
    files = [
        (tmp_path / folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
        for folder in ("quantised", "plain")
    ]
    assert files[0] == files[1]
    with pytest.raises(ValueError, match="cannot be trained in full"):
        _student(tiny_flux, quantization="nf4", lora=None)


def test_bfloat16_base_trains_in_float32_with_exact_times(tiny_flux: Path, tmp_path: Path) -> None:
    student = _student(tiny_flux, dtype="bfloat16", lora=LORA)
    told: list[Tensor] = []
    student.denoiser.time_text_embed.time_proj.register_forward_pre_hook(lambda m, args: told.append(args[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student.losses(_batch(), _g())
    expected = torch.sigmoid(torch.randn(4, generator=_g())) * 1000
    assert told[0].dtype == torch.float32
    torch.testing.assert_close(told[0], expected, atol=0, rtol=1e-6)
    assert {p.dtype for p in student._trained.values()} == {torch.float32}
