"""The release's layout, with random weights, against stock diffusers, a hook and peft's adapters."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import FluxControlPipeline, FluxTransformer2DModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from dsd import DSDPipeline, Student
from dsd.cli import main
from dsd.convert import checkpoint, convert
from dsd.convert import folder as folders

LORA = "pytorch_lora_weights.safetensors"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SIZES = {
    **{"in_channels": 64, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20},
    **{"guidance_embeds": True, "axes_dims_rope": (4, 6, 6)},
}
NAMES = r"to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out"
TARGETS = rf"(single_)?transformer_blocks\.\d+\.attn\.({NAMES})"


class Release:
    """A folder as it was published, and what its own code computes, kept in memory as an oracle."""

    def __init__(self, folder, seed, dtype=torch.float32, rank=3, infix=False):
        torch.manual_seed(seed)
        self.folder, self.dtype = folder, dtype
        stock = FluxTransformer2DModel(**SIZES)
        self.c_embedder = nn.Linear(64, 32)
        for module in (stock, self.c_embedder):
            for parameter in module.parameters():
                scale = 0.25 if parameter.ndim == 1 else 1 / parameter[0].numel() ** 0.5
                parameter.data = (torch.randn(parameter.shape) * scale).to(dtype)
        self.plain = {key: value.clone() for key, value in stock.state_dict().items()}
        stock.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS))
        wrapped = stock.state_dict()  # as training saved it: with `base_layer.` and `lora_A.default.`
        self.strays = {k: torch.randn(v.shape).to(dtype) for k, v in wrapped.items() if ".lora_" in k}
        names = [key for key in wrapped if ".lora_" not in key] if infix else list(self.plain)
        self.tensors = dict(zip(names, self.plain.values(), strict=True)) | self.strays
        self.tensors |= {f"c_embedder.{k}": v.detach() for k, v in self.c_embedder.state_dict().items()}
        self.lora = {
            f"transformer.{key.replace('.default', '')}": torch.randn(v.shape).to(dtype) / v.shape[1] ** 0.5
            for key, v in self.strays.items()
        }
        config = {key: value for key, value in stock.config.items() if key != "out_channels"}
        self.config = {**config, "_class_name": "FluxTransformer2DConditionalModel", "patch_size": 1}

    def write(self, shards=1):
        inner = self.folder / "transformer"
        inner.mkdir(parents=True)
        (inner / "config.json").write_text(json.dumps(self.config))
        if shards == 1:
            save_file(self.tensors, inner / WEIGHTS, metadata={"format": "pt"})
        else:
            files = [f"diffusion_pytorch_model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
            place = {key: files[i % shards] for i, key in enumerate(self.tensors)}
            for file in files:
                part = {key: value for key, value in self.tensors.items() if place[key] == file}
                save_file(part, inner / file, metadata={"format": "pt"})
            (inner / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": place}))
        if self.lora is not None:
            save_file(self.lora, self.folder / LORA, metadata={"format": "pt"})
        return self

    def __call__(self, x, condition, dtype=None, lora=True):
        """x_embedder(x) + c_embedder(condition), and adapters that peft adds to each layer's output."""
        model = FluxTransformer2DModel(**SIZES).to(self.dtype).eval()
        model.load_state_dict(self.plain)
        if lora and self.lora:
            model.load_lora_adapter(dict(self.lora), prefix="transformer")
        model, embed = model.to(dtype or self.dtype), self.c_embedder.to(dtype or self.dtype)
        model.x_embedder.register_forward_hook(lambda layer, args, output: output + embed(condition))
        result = run(model, x)
        self.c_embedder.to(self.dtype)
        return result


def inputs(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return torch.randn(2, 2, 8, 64).to(dtype)


@torch.no_grad()
def run(model, tokens):
    torch.manual_seed(9)
    text, pooled = torch.randn(2, 5, 24), torch.randn(2, 20)
    ids = torch.tensor([[0.0, row, column] for row in range(2) for column in range(4)])
    return model(
        hidden_states=tokens, encoder_hidden_states=text.to(tokens.dtype),
        pooled_projections=pooled.to(tokens.dtype), timestep=torch.tensor([0.25, 0.75]).to(tokens.dtype),
        guidance=torch.tensor([3.5, 1.5]), img_ids=ids, txt_ids=torch.zeros(5, 3),
    ).sample  # fmt: skip


def stock(folder, dtype=None):
    """The converted transformer, by stock diffusers; every weight must be found and none be left over."""
    model, info = FluxTransformer2DModel.from_pretrained(
        folder, subfolder="transformer", dtype=dtype, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def done(src, dst, **options):
    return convert(src, dst, progress=False, **options)


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path / "release", seed=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shards", [1, 3])
def test_the_stock_folder_computes_what_the_release_computes(tmp_path, seed, shards):
    released = Release(tmp_path / "release", seed, infix=seed % 2 == 1).write(shards)
    told = done(released.folder, tmp_path / "stock")
    model = stock(tmp_path / "stock")
    assert (model.config.in_channels, model.config.out_channels) == (128, 64)
    x, condition = inputs(seed)
    close(run(model, torch.cat([x, condition], dim=-1)), released(x, condition))
    # What a mistake would change is there: the condition, its bias, the adapters.
    without = released(x, torch.zeros_like(condition))
    assert (without - released(x, condition)).abs().max() > 0.05
    assert (released(x, condition, lora=False) - released(x, condition)).abs().max() > 0.05
    layers = len(released.lora) // 2
    assert layers == 2 * 8 + 2 * 3
    assert f"adapters of {layers} layers merged" in str(told)
    assert told.num_tensors == len(model.state_dict())
    assert not (tmp_path / "stock" / LORA).exists()


def test_bfloat16_is_merged_in_float32_and_rounded_once(tmp_path):
    released = Release(tmp_path / "release", 1, torch.bfloat16).write()
    done(released.folder, tmp_path / "stock")
    stored = load_file(tmp_path / "stock" / "transformer" / WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    x, condition = inputs(1)
    truth = released(x, condition, torch.float32)
    error = run(stock(tmp_path / "stock", torch.float32), torch.cat([x, condition], dim=-1)) - truth
    assert error.abs().mean() < 0.02 * truth.abs().mean()  # weights of 8 bits
    name = "transformer_blocks.0.attn.to_q"
    up, down = (released.lora[f"transformer.{name}.lora_{part}.weight"].double() for part in "BA")
    exact = released.tensors[f"{name}.weight"].double() + up @ down
    assert torch.equal(stored[f"{name}.weight"], exact.float().bfloat16())
    half = released.tensors["x_embedder.bias"].double() + released.tensors["c_embedder.bias"].double()
    assert torch.equal(stored["x_embedder.bias"], half.bfloat16())


def test_adapters_kept_beside_load_in_stock_diffusers(release, tmp_path, tiny_flux):
    release.write()
    base = done_base(tmp_path, tiny_flux)
    done(release.folder, tmp_path / "stock", lora="keep", base=base)
    x, condition = inputs()
    joined = torch.cat([x, condition], dim=-1)
    pipe = FluxControlPipeline.from_pretrained(tmp_path / "stock")
    close(run(pipe.transformer, joined), release(x, condition, lora=False))
    pipe.load_lora_weights(tmp_path / "stock")
    close(run(pipe.transformer, joined), release(x, condition))
    ours = DSDPipeline.from_pretrained(tmp_path / "stock")
    close(run(ours.backbone.denoiser, joined), release(x, condition))


def test_adapters_can_be_left_out(release, tmp_path):
    release.write()
    (release.folder / LORA).unlink()
    with pytest.raises(FileNotFoundError, match=f"{LORA} is missing.*none"):
        done(release.folder, tmp_path / "stock")
    done(release.folder, tmp_path / "stock", lora="none")
    x, condition = inputs()
    ours = run(stock(tmp_path / "stock"), torch.cat([x, condition], dim=-1))
    close(ours, release(x, condition, lora=False))


@pytest.mark.parametrize("how", ["keys", "metadata", "pattern"])
def test_alpha_scales_the_adapters_as_in_diffusers(release, tmp_path, tiny_flux, how):
    header = {"format": "pt"}
    layers = sorted({key.rpartition(".lora_")[0] for key in release.lora})
    if how == "keys":
        release.lora |= {f"{layer}.alpha": torch.tensor(1.5) for layer in layers}
    else:
        short = [layer.removeprefix("transformer.") for layer in layers]
        config = {"transformer.r": 3, "transformer.lora_alpha": 6, "transformer.target_modules": short}
        if how == "pattern":
            config["transformer.alpha_pattern"] = {"transformer_blocks.1.attn.to_q": 12}
        header["lora_adapter_metadata"] = json.dumps(config)
    release.write()
    save_file(release.lora, release.folder / LORA, metadata=header)
    base = done_base(tmp_path, tiny_flux)
    done(release.folder, tmp_path / "merged")
    done(release.folder, tmp_path / "kept", lora="keep", base=base)
    pipe = FluxControlPipeline.from_pretrained(tmp_path / "kept")
    joined = torch.cat([*inputs()], dim=-1)
    alone = run(pipe.transformer, joined)
    pipe.load_lora_weights(tmp_path / "kept")
    theirs = run(pipe.transformer, joined)
    assert (theirs - alone).abs().max() > 0.02
    close(run(stock(tmp_path / "merged"), joined), theirs)


def test_adapters_of_the_two_input_layers_are_merged_but_cannot_be_kept(release, tmp_path):
    for layer in ("x_embedder", "c_embedder"):
        release.lora[f"transformer.{layer}.lora_A.weight"] = torch.randn(2, 64) / 8
        release.lora[f"transformer.{layer}.lora_B.weight"] = torch.randn(32, 2)
    release.write()
    with pytest.raises(ValueError, match=r'c_embedder and x_embedder.*lora="merge"'):
        done(release.folder, tmp_path / "kept", lora="keep")
    done(release.folder, tmp_path / "stock")
    wide = load_file(tmp_path / "stock" / "transformer" / WEIGHTS)["x_embedder.weight"]
    for layer, columns in (("x_embedder", wide[:, :64]), ("c_embedder", wide[:, 64:])):
        up, down = (release.lora[f"transformer.{layer}.lora_{part}.weight"] for part in "BA")
        close(columns, release.tensors[f"{layer}.weight"] + up @ down)


@pytest.mark.parametrize("lora", ["merge", "keep"])
def test_there_and_back_is_the_same_function(release, tmp_path, lora):
    release.write()
    done(release.folder, tmp_path / "stock", lora=lora)
    told = done(tmp_path / "stock", tmp_path / "back", lora=lora, reverse=True)
    assert told.folder == tmp_path / "back"
    config = json.loads((tmp_path / "back" / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "FluxTransformer2DConditionalModel"
    assert "out_channels" not in config
    back = Release(tmp_path / "nowhere", seed=5)  # its random weights must all be replaced
    tensors = load_file(tmp_path / "back" / "transformer" / WEIGHTS)
    assert set(tensors) == set(release.tensors) - set(release.strays)
    inner = {k.partition(".")[2]: tensors.pop(k) for k in list(tensors) if k.startswith("c_embedder.")}
    assert not inner["bias"].any()
    back.c_embedder.load_state_dict(inner)
    back.plain = tensors
    back.lora = load_file(tmp_path / "back" / LORA)
    x, condition = inputs()
    close(back(x, condition), release(x, condition))
    done(tmp_path / "back", tmp_path / "again")
    close(run(stock(tmp_path / "again"), torch.cat([x, condition], dim=-1)), release(x, condition))


def test_a_student_goes_to_the_releases_layout(tiny_flux, tmp_path):
    student = Student(base=str(tiny_flux), conditioning="parallel", frame_size=(32, 32))
    with torch.no_grad():
        student.denoiser.x_embedder.weight.normal_()
    student.save_pretrained(tmp_path / "student", components="trained")
    done(tmp_path / "student", tmp_path / "release", reverse=True)
    done(tmp_path / "release", tmp_path / "stock")
    before, after = (load_file(tmp_path / x / "transformer" / WEIGHTS) for x in ("student", "stock"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    card = json.loads((tmp_path / "student" / "dsd.json").read_text())
    (tmp_path / "student" / "dsd.json").write_text(json.dumps({**card, "conditioning": {"name": "concat"}}))
    with pytest.raises(ValueError, match="student of 'concat'"):
        done(tmp_path / "student", tmp_path / "other", reverse=True)


def done_base(tmp_path, tiny_flux):
    """A base with the text encoders and the autoencoder of the tiny model."""
    shutil.copytree(tiny_flux, tmp_path / "base", dirs_exist_ok=True)
    (tmp_path / "base" / "vae" / "old.bin").write_bytes(b"a pickle")
    return str(tmp_path / "base")


@pytest.mark.parametrize("lora", ["merge", "keep"])
def test_the_pipeline_draws_from_the_release_what_stock_diffusers_draws(
    release, tmp_path, tiny_flux, monkeypatch, lora
):
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    release.write()
    base = done_base(tmp_path, tiny_flux)
    done(release.folder, tmp_path / "whole", base=base)
    assert not list((tmp_path / "whole").rglob("*.bin"))
    picture, prompts = torch.rand(1, 3, 32, 32), ["a red creature"]
    pipe = FluxControlPipeline.from_pretrained(tmp_path / "whole", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        prompts, control_image=torch.cat([picture, torch.zeros_like(picture)], dim=-1) * 2 - 1,
        height=32, width=64, num_inference_steps=3, max_sequence_length=24, output_type="pt",
        guidance_scale=3.5, generator=[torch.Generator().manual_seed(3)],
    ).images[..., 32:]  # fmt: skip
    done(release.folder, tmp_path / "part", lora=lora)
    assert sorted(path.name for path in (tmp_path / "part").iterdir() if path.name != LORA) == [
        "dsd.json", "transformer"
    ]  # fmt: skip
    for folder, options in {
        release.folder: {"base": base},  # as published
        tmp_path / "part": {"base": base},  # converted, the base's parts left out
        tmp_path / "whole": {},
    }.items():
        ours = DSDPipeline.from_pretrained(folder, **options)
        assert ours.frame_size == (512, 512)
        ours.set_progress_bar_config(disable=True)
        drawn = ours(
            image=picture,
            prompt=prompts,
            height=32,
            width=32,
            num_inference_steps=3,
            seed=3,
            output_type="pt",
        ).images
        close(drawn, theirs)


def test_the_pipeline_takes_the_releases_weights_bit_for_bit_as_converted(release, tmp_path, tiny_flux):
    release.write()
    done(release.folder, tmp_path / "stock")
    options = {"base": str(tiny_flux), "torch_dtype": "bfloat16"}
    one, other = (DSDPipeline.from_pretrained(x, **options) for x in (release.folder, tmp_path / "stock"))
    weights, converted = one.backbone.denoiser.state_dict(), other.backbone.denoiser.state_dict()
    assert weights.keys() == converted.keys()
    assert all(torch.equal(weights[key], converted[key]) for key in weights)
    assert {x.dtype for x in one.backbone.parameters()} == {torch.bfloat16}
    (release.folder / "transformer" / WEIGHTS).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="no whole safetensors"):
        DSDPipeline.from_pretrained(release.folder, base=str(tiny_flux))


def test_a_base_of_another_size_is_refused(release, tmp_path, tiny_flux):
    release.write()
    base = Path(done_base(tmp_path, tiny_flux))
    config = json.loads((base / "text_encoder_2" / "config.json").read_text())
    (base / "text_encoder_2" / "config.json").write_text(json.dumps({**config, "d_model": 32}))
    with pytest.raises(ValueError, match=r"text_encoder_2 .* d_model 32, but the transformer needs 24"):
        done(release.folder, tmp_path / "whole", base=str(base))
    (base / "vae" / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="no vae with safetensors"):
        done(release.folder, tmp_path / "whole", base=str(base))
    with pytest.raises(FileNotFoundError, match="no folder"):
        done(release.folder, tmp_path / "whole", base=str(tmp_path / "nowhere"))


def cut(file):
    file.write_bytes(file.read_bytes()[:-64])


def drop(*names):
    return lambda release: [release.tensors.pop(name) for name in names]


def nan(release):
    release.tensors["proj_out.weight"][3, 3] = torch.nan


def narrow(release):
    release.tensors = {k: v[..., :16].clone() for k, v in release.tensors.items()}


def rank(release):
    release.lora["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"] = torch.randn(2, 32)


def stranger(release):
    release.lora["transformer.transformer_blocks.7.attn.to_q.lora_A.weight"] = torch.randn(3, 32)
    release.lora["transformer.transformer_blocks.7.attn.to_q.lora_B.weight"] = torch.randn(32, 3)


def one_alpha(release):
    release.lora["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(2.0)


def eighth(release):
    release.tensors["proj_out.weight"] = release.tensors["proj_out.weight"].to(torch.float8_e4m3fn)


def twice(release):
    release.tensors["proj_out.base_layer.weight"] = release.tensors["proj_out.weight"].clone()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop("c_embedder.weight", "c_embedder.bias"), "plain FLUX transformer"),
        (drop("c_embedder.bias"), r"1 tensors are missing, such as 'c_embedder.bias'"),
        (drop("single_transformer_blocks.1.proj_out.weight"), "1 tensors are missing.*single"),
        (lambda release: release.config.update(num_layers=1), r"are unknown, such as 'transformer_blocks\.1"),
        (lambda release: release.config.update(_class_name="SD3Transformer2DModel"), "a SD3Transformer2D"),
        (lambda release: release.config.update(num_layers="two"), "no configuration of FLUX"),
        (narrow, "have another shape, such as"),
        (nan, "'proj_out.weight' .* not finite.*damaged"),
        (eighth, "'proj_out.weight' .* F8_E4M3; only"),
        (twice, "both .* mixed"),
        (rank, "no one rank|another model"),
        (stranger, r"adapts 'transformer_blocks.7.attn.to_q', a layer that this transformer does not have"),
        (one_alpha, "alpha for some layers only"),
        (lambda release: release.lora.popitem(), "without its other half"),
        (
            lambda release: release.lora.update({"text_encoder.a.lora_A.weight": torch.ones(2)}),
            "text_encoder",
        ),
    ],
)
def test_other_models_are_refused_and_nothing_is_left(release, tmp_path, spoil, says):
    spoil(release)
    release.write()
    with pytest.raises(ValueError, match=f"(?s){says}"):
        done(release.folder, tmp_path / "stock")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda folder: cut(folder / "transformer" / WEIGHTS), ValueError, "no whole safetensors file"),
        (lambda folder: cut(folder / LORA), ValueError, f"{LORA} .* no whole safetensors file"),
        (lambda folder: (folder / "transformer" / WEIGHTS).write_bytes(b""), ValueError, r"\(0 bytes\)"),
        (lambda folder: (folder / LORA).write_text("version https://git-lfs"), ValueError, "no whole"),
        (lambda folder: (folder / "transformer" / WEIGHTS).unlink(), FileNotFoundError, "There is no diff"),
        (
            lambda folder: (folder / "transformer" / WEIGHTS).rename(folder / "transformer" / "model.bin"),
            FileNotFoundError,
            "model.bin is not read: pickles",
        ),
        (lambda folder: (folder / "transformer" / "config.json").unlink(), FileNotFoundError, "config.json"),
        (lambda folder: (folder / "transformer" / "config.json").write_text("<html>"), ValueError, "no JSON"),
        (lambda folder: (folder / "transformer" / "config.json").write_text("[]"), ValueError, "holds list"),
    ],
)
def test_damaged_files_are_refused_and_nothing_is_left(release, tmp_path, spoil, error, says):
    release.write()
    spoil(release.folder)
    with pytest.raises(error, match=f"(?s){says}"):
        done(release.folder, tmp_path / "stock")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


def test_shards_that_do_not_belong_together_are_refused(release, tmp_path):
    inner = release.write(shards=3).folder / "transformer"
    index = inner / f"{WEIGHTS}.index.json"
    listed = json.loads(index.read_text())
    places = listed["weight_map"]
    for spoiled, error, says in (
        (
            {**places, "more.weight": places["proj_out.weight"]},
            ValueError,
            "1 tensors that its shards do not",
        ),
        ({**places, "proj_out.weight": "../away.safetensors"}, ValueError, "weight_map"),
        ({**places, "proj_out.weight": "gone.safetensors"}, FileNotFoundError, "gone.safetensors .* missing"),
    ):
        index.write_text(json.dumps({"weight_map": spoiled}))
        with pytest.raises(error, match=says):
            done(release.folder, tmp_path / "stock")


def test_each_direction_says_when_it_is_the_wrong_one(release, tmp_path):
    release.write()
    done(release.folder, tmp_path / "stock")
    with pytest.raises(ValueError, match=r"stock form already.*--reverse"):
        done(tmp_path / "stock", tmp_path / "again")
    with pytest.raises(ValueError, match=r"the release's form already.*--reverse"):
        done(release.folder, tmp_path / "again", reverse=True)
    with pytest.raises(FileExistsError, match="stock exists"):
        done(release.folder, tmp_path / "stock")
    with pytest.raises(ValueError, match="`max_shard_gb` must be above 0"):
        done(release.folder, tmp_path / "again", max_shard_gb=0.0)
    with pytest.raises(ValueError, match="not both"):
        done(tmp_path / "stock", tmp_path / "again", reverse=True, base="mini")
    (tmp_path / "empty").mkdir()
    done(release.folder, tmp_path / "empty")
    assert (tmp_path / "empty" / "dsd.json").is_file()


def test_large_models_come_in_shards_that_stock_diffusers_loads(release, tmp_path):
    release.write()
    done(release.folder, tmp_path / "one")
    done(release.folder, tmp_path / "many", max_shard_gb=1e-4)
    files = list((tmp_path / "many" / "transformer").glob("*-of-*.safetensors"))
    assert len(files) > 2
    assert max(len(load_file(file)) for file in files) > 1
    assert all(sum(x.nbytes for x in load_file(file).values()) <= 1e5 for file in files)
    one, many = stock(tmp_path / "one").state_dict(), stock(tmp_path / "many").state_dict()
    assert all(torch.equal(one[key], many[key]) for key in one)


def test_without_room_nothing_is_begun(release, tmp_path, monkeypatch):
    release.write()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(OSError, match=r"not written: it takes .* its disk has 0\.00 GB free"):
        done(release.folder, tmp_path / "stock")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


@pytest.mark.parametrize("fault", [RuntimeError("fault"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_a_failure_halfway_leaves_nothing(release, tmp_path, monkeypatch, fault):
    release.write()
    load, calls = checkpoint.Stored.load, []

    def failing(self):
        calls.append((tmp_path / "stock").exists())
        if len(calls) == 20:
            raise fault
        return load(self)

    monkeypatch.setattr(checkpoint.Stored, "load", failing)
    with pytest.raises(type(fault)):
        done(release.folder, tmp_path / "stock")
    assert calls == [False] * 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


def test_a_killed_conversion_leaves_no_folder_and_the_next_one_cleans_up(release, tmp_path):
    release.write()
    slow = (
        "import sys, time; from dsd.convert import checkpoint, convert\n"
        "load = checkpoint.Stored.load\n"
        "checkpoint.Stored.load = lambda self: (time.sleep(0.3), load(self))[1]\n"
        "convert(sys.argv[1], sys.argv[2], progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(release.folder), str(tmp_path / "stock")])
    work = tmp_path / ".stock.converting"
    deadline = time.monotonic() + 120
    while not list(work.glob("new/transformer/*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(RuntimeError, match="being written to by process"):
        done(release.folder, tmp_path / "stock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "stock").exists()
    assert work.exists()
    done(release.folder, tmp_path / "stock")
    stock(tmp_path / "stock")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release", "stock"]


def test_the_command(release, tmp_path, capsys):
    release.write()
    assert main(["convert", str(release.folder), str(tmp_path / "stock"), "--no_progress"]) == 0
    assert "adapters of 22 layers merged; the model is in" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "stock"), str(tmp_path / "back"), "--reverse"]) == 0
    captured = capsys.readouterr()
    assert "back: 100%" in captured.err
    assert main(["convert", str(tmp_path / "stock")]) == 2
    assert capsys.readouterr().err == "dsd convert: DST must be given. See dsd convert --help.\n"
    assert main(["convert", str(tmp_path / "gone"), str(tmp_path / "x")]) == 2
    assert "There is no folder" in capsys.readouterr().err


MEASURE = """
import re, sys
from dsd import convert

def peak():  # not ru_maxrss, which begins at the size of the process that this one was started from
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

before = peak()
convert.convert(sys.argv[1], sys.argv[2], progress=False)
print(before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Layers as wide as FLUX.1-dev's, adapters of rank 128, bfloat16; only fewer blocks."""
    peaks = {}
    for singles in (1, 4):
        folder = tmp_path / f"release{singles}"
        size = write_wide_release(folder, singles)
        call = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / f"stock{singles}")]
        out = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        before, after = map(int, out.split())
        peaks[size] = after - before
        sys.stderr.write(
            f"\n{size / 1e9:.2f} GB: {before / 1e9:.2f} GB after imports, {after / 1e9:.2f} GB at most\n"
        )
        shutil.rmtree(tmp_path / f"stock{singles}")
        shutil.rmtree(folder)
        assert after < 2.5e9
    (small, large) = sorted(peaks)
    assert large > 1.7 * small
    assert peaks[large] < peaks[small] + 0.05 * (large - small)
    assert peaks[large] < 0.5 * large


def write_wide_release(folder, singles):
    """One double block and some single ones; returns the size of the transformer's file in bytes."""
    config = {"num_layers": 1, "num_single_layers": singles, "guidance_embeds": True}
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in FluxTransformer2DModel(**config).state_dict().items()}
    shapes |= {"c_embedder.weight": (3072, 64), "c_embedder.bias": (3072,)}
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 20, generator=generator).bfloat16()

    def filled(shape):
        count = torch.Size(shape).numel()
        return noise.repeat(-(-count // len(noise)))[:count].reshape(shape)

    file = folder / "transformer" / WEIGHTS
    save_file({name: filled(shape) for name, shape in shapes.items()}, file, metadata={"format": "pt"})
    layers = [k.removesuffix(".weight") for k in shapes if ".attn." in k and len(shapes[k]) == 2]
    save_file(
        {f"transformer.{layer}.lora_{part}.weight": filled(shape) for layer in layers
         for part, shape in (("A", (128, 3072)), ("B", (3072, 128)))},
        folder / LORA,
    )  # fmt: skip
    return os.path.getsize(file)
