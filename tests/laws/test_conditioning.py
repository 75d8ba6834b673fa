"""Laws that every conditioning obeys, whoever wrote it: also those that installed packages announce."""

import copy
import json

import diffusers
import pytest
import torch
from diffusers import FluxTransformer2DModel

from dsd import DSDPipeline, Student
from dsd import conditioning as conditionings
from dsd.backbones import FluxBackbone, RawBatch
from dsd.backbones.packing import grid_ids, pack, unpack
from tests.laws import stock
from tests.laws.settings import cases

SPECS, LABELS = cases()
TIMES = torch.tensor([0.3135, 0.7482])  # bfloat16 makes them 312 and 752 of 1000
LORA = {"rank": 2}

every = pytest.mark.parametrize("spec", SPECS, ids=LABELS)


@pytest.fixture(scope="module")
def base(tiny_flux):
    backbone = FluxBackbone(str(tiny_flux))
    backbone.requires_grad_(False)
    backbone.vae.register_to_config(scaling_factor=4.0)  # latents of about unit variance, as real ones have
    return backbone


@pytest.fixture
def backbone(base):
    return copy.deepcopy(base)


def raw(seed=0, size=(32, 48), reference_size=None):
    """Two pairs of pictures of coloured squares: noise would all look the same to the autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    reference, target = (
        torch.rand(2, 3, height // 8, width // 8, generator=generator).round().repeat_interleave(8, 2)
        for height, width in (reference_size or size, size)
    )
    return RawBatch(
        ids=["a", "b"],
        reference=reference.repeat_interleave(8, 3) * 2 - 1,
        target=target.repeat_interleave(8, 3) * 2 - 1,
        captions=["a red creature", "the beach"],
    )


def a_student(backbone, spec, **arguments):
    dropouts = {"text_dropout": 0.0, "reference_dropout": 0.0}
    return Student(base=backbone, conditioning=spec, **{"lora": LORA, "lr": 1e-2, **dropouts, **arguments})


def stirred(student, seed=2, scale=0.3):
    """With all that is trained far from where it started: zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student._trained.values():
            parameter += (
                scale * torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
            )
    return student.eval()


def steps(student, count, seed=0):
    """So many steps of training, and the losses."""
    batch, losses = student.encode(raw()), []
    optimizer = student.configure_optimizers()
    student.train()
    for step in range(count):
        generator = torch.Generator().manual_seed(seed + step)
        loss, _ = student.losses(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    student.eval()
    return losses


def noise_for(student, batch, seed=1):
    shape = student.conditioning.canvas(batch.reference, batch.target).shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def velocity(student, x, reference, text, t=TIMES):
    return student.conditioning.velocity(student.backbone, x, t, reference, text, 2.5)


@every
@pytest.mark.parametrize("reference_size", [None, (64, 32)], ids=["same-size", "other-aspect"])
def test_nothing_is_lost_on_the_way_in_and_out(spec, backbone, reference_size):
    student = a_student(backbone, spec)
    method, batch = student.conditioning, student.encode(raw(reference_size=reference_size))
    canvas = method.canvas(batch.reference, batch.target)
    assert torch.equal(method.crop(canvas), batch.target)
    frames = method.split(canvas)
    assert tuple(frames) == method.frames
    assert all(frame.shape == batch.target.shape for frame in frames.values())
    pixels = method.decode(backbone, canvas)
    assert {name: frame.shape for name, frame in pixels.items()} == dict.fromkeys(frames, (2, 3, 32, 48))
    assert velocity(student, canvas, batch.reference, batch.text).shape == canvas.shape


@every
@torch.no_grad()
def test_installation_leaves_the_base_as_it_was(spec, backbone):
    base = copy.deepcopy(backbone)
    student = a_student(backbone, spec)
    batch = student.encode(raw())
    x = noise_for(student, batch)
    plain = unpack(base.call(pack(x), TIMES, batch.text, grid_ids(*x.shape[-2:]), 2.5), *x.shape[-2:])
    shown = velocity(student, x, batch.reference, batch.text)
    assert torch.equal(shown, plain) == student.conditioning.starts_as_base
    assert torch.equal(velocity(student, x, batch.reference.zero(), batch.text), plain)


@every
@pytest.mark.parametrize("how", ["added", "lora", "full"])
def test_gradients_reach_every_declared_parameter_and_no_other(spec, backbone, how):
    arguments = {"lora": LORA if how == "lora" else None, "train": "added" if how == "added" else "full"}
    if how == "added" and not _adds_weights(spec, copy.deepcopy(backbone)):
        with pytest.raises(ValueError, match="adds no weights"):
            a_student(backbone, spec, **arguments)
        return
    student = a_student(backbone, spec, **arguments)
    declared = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    added = {id(p) for p in student.conditioning.trained(student.denoiser).values()}
    named = {name: id(p) for name, p in student.named_parameters()}
    assert declared == set(student._trained)
    assert added <= {named[name] for name in declared}
    if how == "added":
        assert added == {named[name] for name in declared}
    if how == "full":
        assert {f"backbone.denoiser.{name}" for name, _ in student.denoiser.named_parameters()} <= declared
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    steps(student, 4)  # zero layers hide what lies before them for the first few
    changed = {
        name for name, parameter in student.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert sorted(declared ^ changed) == []


def _adds_weights(spec, backbone):
    method = conditionings.create(spec)
    method.install(backbone.denoiser)
    return bool(method.trained(backbone.denoiser))


@every
def test_the_reference_matters_after_ten_steps(spec, backbone):
    """A path on which nothing comes through gives the same bits: it fails, whatever its gradients are."""
    adds = _adds_weights(spec, copy.deepcopy(backbone))
    student = a_student(backbone, spec, lr=1e-3, **({"lora": None, "train": "added"} if adds else {}))
    batch = student.encode(raw())
    x = noise_for(student, batch)
    steps(student, 10)
    plain = velocity(student, x, batch.reference, batch.text)
    scale = plain.std()
    other = student.conditioning.encode(backbone, student.conditioning.prepare(raw(9).references, 32, 48))
    for reference in (other, batch.reference[[1, 0]], batch.reference.zero()):
        assert (velocity(student, x, reference, batch.text) - plain).abs().max() > 5e-5 * scale


@every
def test_batch_neighbours_do_not_matter(spec, backbone):
    student = stirred(a_student(backbone, spec))
    batch = student.encode(raw())
    x = noise_for(student, batch)
    for shown in ([True, True], [False, True], [True, False]):
        reference = batch.reference.masked(torch.tensor(shown))
        both = velocity(student, x, reference, batch.text)
        for i in range(2):
            alone = velocity(student, x[i : i + 1], reference[i], batch.text[i], TIMES[i : i + 1])
            torch.testing.assert_close(alone[0], both[i], atol=2e-5, rtol=1e-4)


@every
def test_gradient_checkpointing_changes_no_gradient(spec, base):
    found = []
    for checkpointing in (False, True):
        student = stirred(a_student(copy.deepcopy(base), spec, gradient_checkpointing=checkpointing)).train()
        runs, blocks = [], [m for m in student.modules() if type(m).__name__ == "FluxTransformerBlock"]
        for block in blocks:
            block.attn.register_forward_pre_hook(lambda module, args, runs=runs: runs.append(1))
        loss, _ = student.losses(student.encode(raw()), torch.Generator().manual_seed(0))
        loss.backward()
        assert len(runs) == len(blocks) * (1 + checkpointing), "not every block is recomputed"
        found.append({name: parameter.grad for name, parameter in student._trained.items()})
    plain, recomputed = found
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        assert gradient is not None
        assert gradient.any(), name
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-7, rtol=1e-5)


@every
def test_references_in_either_order_under_equal_ids_give_the_same_output(spec, backbone):
    student = stirred(a_student(backbone, spec))
    method, first, second = student.conditioning, raw(0), raw(7)
    if not method.takes_several:
        with pytest.raises(ValueError, match="exactly one reference for each picture; got 2"):
            method.prepare([first.reference, second.reference], 32, 48)
        return
    batch = student.encode(first)
    x = noise_for(student, batch)
    one, other = (
        method.encode(backbone, method.prepare(pair, 32, 48))
        for pair in ([first.reference, second.reference], [second.reference, first.reference])
    )
    rows = [_rows(method.inputs(x, TIMES, reference, batch.text)) for reference in (one, other)]
    equal = bool(rows[0] == rows[1])
    same = torch.allclose(
        velocity(student, x, one, batch.text), velocity(student, x, other, batch.text), atol=1e-5, rtol=1e-4
    )
    assert same == equal
    single = velocity(student, x, batch.reference, batch.text)
    assert not torch.allclose(velocity(student, x, one, batch.text), single, atol=1e-3)


def _rows(inputs):
    """Which tokens stand where, in whatever order: what attention sees."""
    return [sorted(torch.cat([inputs.ids, tokens], dim=1).tolist()) for tokens in inputs.tokens]


@every
@torch.no_grad()
def test_stock_diffusers_draws_the_same_picture(spec, backbone, tmp_path, monkeypatch):
    stock.take_modes(monkeypatch)
    student = stirred(a_student(backbone, spec, frame_size=(32, 48)))
    method = student.conditioning
    student.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    card = json.loads((tmp_path / "dsd.json").read_text())
    assert card["stock_pipeline"] == method.stock_pipeline
    unit = raw().reference[:1] / 2 + 0.5
    noise = noise_for(student, student.encode(raw()))[:1]
    arguments = {"prompt": "a red creature", "num_inference_steps": 3, "guidance_scale": 2.5}

    def draw(pipe, image):
        """Latents too: the tiny autoencoder shows little of what they hold."""
        pipe.set_progress_bar_config(disable=True)
        return [pipe(image, latents=noise, output_type=kind, **arguments).images for kind in ("latent", "pt")]

    live = draw(DSDPipeline(student.backbone, method, (32, 48)), unit)
    loaded = DSDPipeline.from_pretrained(tmp_path)
    torch.testing.assert_close(draw(loaded, unit), live, atol=1e-5, rtol=0)
    assert (draw(loaded, 1 - unit)[0] - live[0]).abs().max() > 1e-3, "the reference shows nowhere"
    pipe = getattr(diffusers, method.stock_pipeline or "FluxPipeline").from_pretrained(tmp_path)
    driver = stock.DRIVERS.get(conditionings.spec(method)["name"])
    if method.stock_pipeline is None or driver is None:
        return  # no stock pipeline knows the design, or nobody has said how it is driven; the folder loads
    pipe.set_progress_bar_config(disable=True)
    theirs = [
        driver(pipe, tmp_path, method, unit * 2 - 1, noise, kind, max_sequence_length=24, **arguments)
        for kind in ("latent", "pt")
    ]
    torch.testing.assert_close(theirs, live, atol=1e-5, rtol=0)


@every
def test_float32_and_bfloat16_agree(spec, backbone):
    """From weights that bfloat16 can hold, so that only the arithmetic differs; these times are none such."""
    student = stirred(a_student(backbone, spec)).to(torch.bfloat16)
    exact = copy.deepcopy(student).to(torch.float32)
    batch = exact.encode(raw()).to(dtype=torch.bfloat16)
    x = noise_for(student, batch).to(torch.bfloat16)
    rough = velocity(student, x, batch.reference, batch.text).float()
    wide = batch.to(dtype=torch.float32)
    truth = velocity(exact, x.float(), wide.reference, wide.text)
    assert rough.dtype == torch.float32
    assert (rough - truth).std() < 0.03 * truth.std()


@every
def test_seeds_reproduce(spec, base):
    def trained(seed, outside):
        torch.manual_seed(outside)
        student = a_student(copy.deepcopy(base), spec, seed=seed)
        losses = steps(student, 3)
        return student, losses

    (one, losses), (same, same_losses), (other, _) = trained(1, 0), trained(1, 5), trained(2, 0)
    assert losses == same_losses
    state, twin, stranger = (student.state_dict() for student in (one, same, other))
    assert all(torch.equal(value, twin[name]) for name, value in state.items())
    assert not all(torch.equal(value, stranger[name]) for name, value in state.items())
    method, canvas = one.conditioning, noise_for(one, one.encode(raw()))
    drawn = method.crop(method.noise(canvas, torch.Generator().manual_seed(8)))
    alike = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(8))
    assert torch.equal(drawn, alike), "targets are noised alike under one seed, whatever the conditioning"
    pictures = []
    for student, seed in ((one, 3), (same, 3), (one, 4)):
        pipe = DSDPipeline(student.backbone, student.conditioning, (32, 32))
        pipe.set_progress_bar_config(disable=True)
        picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        pictures.append(pipe(picture, "snow", num_inference_steps=2, seed=seed, output_type="pt").images)
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


@every
def test_its_spec_builds_it_again(spec):
    method = conditionings.create(spec)
    recorded = conditionings.spec(method)
    assert json.loads(json.dumps(recorded)) == ({"name": spec} if isinstance(spec, str) else spec)
    again = conditionings.create(recorded)
    assert type(again) is type(method)
    assert (again.frames, again.frame_axis, again.stock_pipeline) == (
        method.frames,
        method.frame_axis,
        method.stock_pipeline,
    )


@every
def test_the_denoiser_stays_a_stock_class(spec, backbone):
    method = conditionings.create(spec)
    method.install(backbone.denoiser)
    assert type(backbone.denoiser) is FluxTransformer2DModel
    assert "target" in method.frames
    assert method.stock_pipeline is None or hasattr(diffusers, method.stock_pipeline)
