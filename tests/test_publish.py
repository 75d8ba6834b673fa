"""Exports, loaded by stock diffusers or by the rules of those who read them, against the student."""

import json
import shutil
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxControlPipeline, FluxKontextPipeline, FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import single_file_utils
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from dsd import DSDPipeline, Student
from dsd.cli import main
from dsd.convert import convert
from dsd.publish import export, modelcard
from dsd.publish.saved import open_saved
from tests.trained import trained

LORA = "pytorch_lora_weights.safetensors"
FORMATS = ("diffusers", "lora", "comfyui", "single_file", "release")


@pytest.fixture(scope="module")
def student(tiny_flux) -> Student:
    return trained(tiny_flux, lora={"rank": 3, "alpha": 6, "targets": "blocks"})


@pytest.fixture(scope="module")
def saved(student, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "student"
    student.save_pretrained(folder)
    return folder


def inputs(channels=128, count=8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, count, channels, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 24, generator=generator),
        "pooled_projections": torch.randn(2, 20, generator=generator),
        "timestep": torch.tensor([0.3, 0.9]),
        "guidance": torch.tensor([1.0, 3.5]),
        "img_ids": torch.randn(count, 3, generator=generator).round(),
        "txt_ids": torch.zeros(5, 3),
    }


@torch.no_grad()
def answer(transformer, **arguments) -> torch.Tensor:
    return transformer.eval()(**inputs(**arguments)).sample


def same(one: torch.Tensor, other: torch.Tensor) -> float:
    """Asserts that both are equal to 1e-6 of their size; returns how far they are apart."""
    error = float((one - other).abs().max() / other.abs().max())
    assert error <= 1e-6, error
    return error


def test_a_diffusers_folder_is_stock_and_whole(student, saved, tiny_flux, tmp_path):
    student.save_pretrained(tmp_path / "trained_only", components="trained")
    done = export(tmp_path / "trained_only", tmp_path / "out")
    pipe = FluxControlPipeline.from_pretrained(done.folder)
    same(answer(pipe.transformer), answer(student.denoiser))
    ours = DSDPipeline.from_pretrained(done.folder)
    assert ours.frame_size == (32, 32)
    base = FluxPipeline.from_pretrained(tiny_flux)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        theirs = getattr(base, part).state_dict()
        assert all(torch.equal(x, theirs[name]) for name, x in getattr(pipe, part).state_dict().items())


def test_a_lora_file_grows_the_stock_base_into_the_student(student, saved, tiny_flux, tmp_path):
    export(saved, tmp_path / "out", "lora")
    pipe = FluxControlPipeline.from_pretrained(tiny_flux)
    pipe.load_lora_weights(tmp_path / "out", weight_name=LORA)
    assert pipe.transformer.config.in_channels == 128
    same(answer(pipe.transformer), answer(student.denoiser))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert (tmp_path / "out" / LORA).stat().st_size < (saved / "transformer").stat().st_size + 200_000


def test_a_lora_file_needs_no_metadata(student, saved, tiny_flux, tmp_path):
    """Tools that read the tensors alone get the same: no alpha, so the scale is 1 whatever the rank."""
    export(saved, tmp_path / "out", "lora")
    state = load_file(tmp_path / "out" / LORA)
    assert not any("alpha" in name for name in state)
    pipe = FluxControlPipeline.from_pretrained(tiny_flux)
    pipe.load_lora_weights(state)
    same(answer(pipe.transformer), answer(student.denoiser))


def test_adapters_whose_file_has_a_scale_keep_it(student, saved, tiny_flux, tmp_path):
    """As others write them: the same product with half of B and alpha of twice the rank."""
    shutil.copytree(saved, tmp_path / "s")
    file = tmp_path / "s" / "adapters" / LORA
    state = load_file(file)
    half = {name: x / 2 if "lora_B" in name else x for name, x in state.items()}
    layers = {name.partition(".lora_")[0] for name in state}
    save_file({**half, **{f"{layer}.alpha": torch.tensor(6.0) for layer in layers}}, file)
    export(tmp_path / "s", tmp_path / "out", "lora")
    pipe = FluxControlPipeline.from_pretrained(tiny_flux)
    pipe.load_lora_weights(tmp_path / "out", weight_name=LORA)
    same(answer(pipe.transformer), answer(student.denoiser))


def test_a_student_in_memory_is_exported_as_its_folder_is(student, saved, tmp_path):
    export(student, tmp_path / "a", "lora")
    export(saved, tmp_path / "b", "lora")
    one, other = (load_file(tmp_path / x / LORA) for x in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_lora_of_token_concat_loads_in_kontext(tiny_flux, tmp_path):
    student = trained(tiny_flux, "token_concat", {"rank": 2})
    export(student, tmp_path / "out", "lora")
    pipe = FluxKontextPipeline.from_pretrained(tiny_flux)
    pipe.load_lora_weights(tmp_path / "out")
    same(answer(pipe.transformer, channels=64), answer(student.denoiser, channels=64))
    assert not any(name.endswith("bias") for name in load_file(tmp_path / "out" / LORA))


def test_proj_out_of_the_model_is_not_that_of_the_blocks(tiny_flux, tmp_path):
    """`proj_out` names the last layer and ends the names of others: a suffix would adapt them all."""
    student = trained(tiny_flux, "token_concat", {"rank": 2, "targets": r"proj_out|.*norm_out\.linear"})
    export(student, tmp_path / "out", "lora")
    pipe = FluxKontextPipeline.from_pretrained(tiny_flux)
    pipe.load_lora_weights(tmp_path / "out")
    assert type(pipe.transformer.single_transformer_blocks[0].proj_out) is torch.nn.Linear
    same(answer(pipe.transformer, channels=64), answer(student.denoiser, channels=64))


def from_original(state: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Stock diffusers' own conversion, with the one width that it knows, 3072, made ours."""
    stock = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    known = stock.__code__.co_consts
    assert 3072 in known
    code = stock.__code__.replace(co_consts=tuple(width if x == 3072 else x for x in known))
    return types.FunctionType(code, stock.__globals__)(dict(state))


def from_state(config: Path, state) -> FluxTransformer2DModel:
    model = FluxTransformer2DModel.from_config(json.loads((config / "config.json").read_text()))
    model.load_state_dict(state, strict=True)
    return model


def test_a_single_file_is_what_stock_diffusers_converts(student, saved, tmp_path):
    done = export(saved, tmp_path / "out", "single_file")
    state = load_file(done.folder / "diffusion_model.safetensors")
    assert state["img_in.weight"].shape == (32, 128)
    model = from_state(done.folder / "transformer", from_original(state, 32))
    same(answer(model), answer(student.denoiser))


def comfyui_applied(base: dict[str, torch.Tensor], lora: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """ComfyUI's rule: a weight grows to `reshape_weight` by zeros and gets B A; a bias gets `diff_b`."""
    patched, used = dict(base), set()
    for key in lora:
        layer, _, kind = key.removeprefix("diffusion_model.").partition(".lora_B")
        if not kind:
            continue
        prefix, weight = f"diffusion_model.{layer}", patched[f"{layer}.weight"]
        if f"{prefix}.reshape_weight" in lora:
            grown = torch.zeros(lora[f"{prefix}.reshape_weight"].tolist())
            grown[tuple(slice(0, side) for side in weight.shape)] = weight
            weight = grown
            used.add(f"{prefix}.reshape_weight")
        patched[f"{layer}.weight"] = weight + lora[key] @ lora[f"{prefix}.lora_A.weight"]
        used |= {key, f"{prefix}.lora_A.weight"}
        if f"{prefix}.diff_b" in lora:
            patched[f"{layer}.bias"] = patched[f"{layer}.bias"] + lora[f"{prefix}.diff_b"]
            used.add(f"{prefix}.diff_b")
    assert used == set(lora), "keys that ComfyUI would report as not loaded"
    return patched


@pytest.fixture(scope="module")
def base_original(tiny_flux, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The base's weights under the original names, by an untrained student of the form without new layers."""
    folder = tmp_path_factory.mktemp("original")
    Student(str(tiny_flux), "token_concat", lora={"rank": 1}, frame_size=(32, 32)).save_pretrained(
        folder / "s"
    )
    export(folder / "s", folder / "out", "single_file")
    return load_file(folder / "out" / "diffusion_model.safetensors")


def test_comfyui_keys_make_the_student_of_the_base(student, saved, base_original, tmp_path):
    export(saved, tmp_path / "out", "comfyui")
    lora = load_file(tmp_path / "out" / "comfyui_lora.safetensors")
    assert all(name.startswith("diffusion_model.") for name in lora)
    assert lora["diffusion_model.img_in.reshape_weight"].tolist() == [32, 128]
    patched = comfyui_applied(base_original, lora)
    model = from_state(saved / "transformer", from_original(patched, 32))
    same(answer(model), answer(student.denoiser))


def test_comfyui_keys_of_a_few_layers(tiny_flux, base_original, tmp_path):
    """One of the parts that the original has joined, and the norm whose halves are the other way round."""
    student = trained(tiny_flux, "token_concat", {"rank": 2, "targets": r".*attn\.to_k|norm_out\.linear"})
    export(student, tmp_path / "out", "comfyui")
    lora = load_file(tmp_path / "out" / "comfyui_lora.safetensors")
    patched = comfyui_applied(base_original, lora)
    model = from_state(tiny_flux / "transformer", from_original(patched, 32))
    same(answer(model, channels=64), answer(student.denoiser, channels=64))


def test_the_release_layout_reads_back(student, saved, tmp_path):
    export(saved, tmp_path / "out", "release")
    config = json.loads((tmp_path / "out" / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "FluxTransformer2DConditionalModel"
    pipe = DSDPipeline.from_pretrained(
        tmp_path / "out", base=json.loads((saved / "dsd.json").read_text())["base"]
    )
    same(answer(pipe.backbone.denoiser), answer(student.denoiser))


def test_adapters_that_were_kept_apart_are_merged(student, saved, tmp_path):
    """A converted release with its LoRA file beside the weights."""
    export(saved, tmp_path / "release", "release")
    convert(tmp_path / "release", tmp_path / "kept", lora="keep", base=_base(saved), progress=False)
    assert json.loads((tmp_path / "kept" / "dsd.json").read_text())["lora"] == LORA
    state = load_file(tmp_path / "kept" / LORA)
    generator = torch.Generator().manual_seed(1)
    save_file(
        {k: torch.randn(v.shape, generator=generator) / 8 for k, v in state.items()}, tmp_path / "kept" / LORA
    )
    theirs = DSDPipeline.from_pretrained(tmp_path / "kept").backbone.denoiser
    export(tmp_path / "kept", tmp_path / "one", "single_file")
    one = load_file(tmp_path / "one" / "diffusion_model.safetensors")
    same(answer(from_state(tmp_path / "one" / "transformer", from_original(one, 32))), answer(theirs))
    export(tmp_path / "kept", tmp_path / "whole")
    whole = FluxControlPipeline.from_pretrained(tmp_path / "whole").transformer
    same(answer(whole), answer(theirs))
    assert (answer(theirs) - answer(student.denoiser)).abs().max() > 1e-3


def test_a_name_is_no_markup(saved, tmp_path):
    export(saved, tmp_path / "a <img src=x> *b*", format="lora")
    text = (tmp_path / "a <img src=x> *b*" / "README.md").read_text()
    (title,) = [line for line in text.splitlines() if line.startswith("# ")]
    assert "<img" not in title
    assert "\\*b\\*" in title


def _base(saved: Path) -> str:
    return json.loads((saved / "dsd.json").read_text())["base"]


def test_half_precision_keeps_the_adapters_as_they_were_trained(tiny_flux, tmp_path):
    student = trained(tiny_flux, "token_concat", {"rank": 2}, dtype="bfloat16")
    export(student, tmp_path / "out", "lora")
    name = "transformer_blocks.0.attn.to_q"
    layer = student.denoiser.get_submodule(name)
    state = load_file(tmp_path / "out" / LORA)
    assert torch.equal(state[f"transformer.{name}.lora_A.weight"], layer.lora_A["default"].weight)
    export(student, tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in whole.values()} == {torch.bfloat16}


def test_a_full_training_is_cut_to_a_rank(tiny_flux, tmp_path, caplog):
    student = trained(tiny_flux)
    with pytest.raises(ValueError, match=r"trained in full: \d+ layers differ .* or give `rank`"):
        export(student, tmp_path / "out", "lora")
    assert not (tmp_path / "out").exists()
    errors = []
    for rank in (4, 30):
        caplog.clear()
        export(student, tmp_path / f"{rank}", "lora", rank=rank)
        errors.append(float(caplog.text.partition("miss ")[2].split()[0]))
        assert 0 < errors[-1] < 1
    assert errors[1] < errors[0] / 2
    whole = export(student, tmp_path / "whole", "single_file").folder
    state = load_file(whole / "diffusion_model.safetensors")
    same(answer(from_state(whole / "transformer", from_original(state, 32))), answer(student.denoiser))


def test_networks_beside_the_denoiser_come_along(tiny_flux, tmp_path):
    student = trained(tiny_flux, {"name": "controlnet", "num_layers": 1, "num_single_layers": 1}, {"rank": 2})
    export(student, tmp_path / "out", "lora")
    assert (tmp_path / "out" / "controlnet" / "diffusion_pytorch_model.safetensors").is_file()
    alone = trained(tiny_flux, {"name": "controlnet", "num_layers": 1, "num_single_layers": 1}, train="added")
    with pytest.raises(ValueError, match=r"nothing to write as a LoRA.*controlnet"):
        export(alone, tmp_path / "none", "lora")


def test_a_wrong_base_and_stale_adapters_are_refused(student, saved, tmp_path):
    with pytest.raises(ValueError, match=r"does not fit|Give the base that the student was trained from"):
        export(saved, tmp_path / "out", "lora", base="mini")
    shutil.copytree(saved, tmp_path / "stale")
    file = tmp_path / "stale" / "adapters" / LORA
    state = load_file(file)
    save_file({name: x * 2 for name, x in state.items()}, file)
    with pytest.raises(ValueError, match="is not that of the base with the adapter added"):
        export(tmp_path / "stale", tmp_path / "out", "lora")
    assert not (tmp_path / "out").exists()


def test_saving_anew_leaves_no_adapters_of_another_student(student, tiny_flux, tmp_path):
    student.save_pretrained(tmp_path / "s", components="trained")
    assert (tmp_path / "s" / "adapters" / LORA).is_file()
    trained(tiny_flux).save_pretrained(tmp_path / "s", components="trained")
    assert not (tmp_path / "s" / "adapters").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_all_forms_are_whole_and_safe(saved, tmp_path, kind):
    done = export(saved, tmp_path / "out", kind)
    files = [path for path in done.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".txt"}
    assert any(path.suffix == ".safetensors" for path in files)
    assert done.num_bytes == sum(path.stat().st_size for path in files)
    assert {x.name for x in tmp_path.iterdir()} == {"out"}
    with pytest.raises(FileExistsError, match="out exists"):
        export(saved, tmp_path / "out", kind)


def test_what_fails_leaves_nothing(saved, tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modelcard, "write_card", full)
    with pytest.raises(OSError, match="was not written: No space left"):
        export(saved, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 4}, "`rank` is of 'lora' and 'comfyui'"),
        ({"format": "lora", "rank": 0}, "at least 1; got 0"),
        ({"push": "no_owner"}, "'no_owner' is no repository"),
    ],
)
def test_bad_arguments(saved, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export(saved, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_students(tiny_flux, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        export(tmp_path / "none", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"has no dsd\.json"):
        export(tiny_flux, tmp_path / "out")


def report(folder: Path) -> Path:
    folder.mkdir()
    methods = {
        "text_only": {"identity": 0.41, "scene": 0.9, "n": 10, "intervals": {"identity": [0.35, 0.47]}},
        "student": {"identity": 0.62, "scene": None, "n": 10, "intervals": {"identity": [0.55, 0.7]}},
    }
    (folder / "report.json").write_text(json.dumps({"methods": methods, "references": 12}))
    Image.new("RGB", (8, 8), "red").save(folder / "answers.png")
    return folder


def test_the_card_has_figures_pictures_and_lines_that_load(saved, tmp_path):
    export(saved, tmp_path / "out", report=report(tmp_path / "report"), format="lora")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "diffusers"
    assert set(card.data.tags) >= {"lora", "parallel"}
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"identity": 0.62}
    assert "| student | 0.620 (0.550 to 0.700) | \N{EN DASH} |" in card.text
    assert "| text\\_only | 0.410 (0.350 to 0.470) | 0.900 |" in card.text
    assert "12 held-out characters" in card.text
    assert card.text.startswith("\n# out\n") or card.text.startswith("# out\n")
    assert "![References, and what was drawn of them](answers.png)" in card.text
    assert (tmp_path / "out" / "answers.png").read_bytes() == (
        tmp_path / "report" / "answers.png"
    ).read_bytes()
    assert "FluxControlPipeline" in card.text
    shown = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in shown
    assert _base(saved) not in shown, "where the base lies is nobody's business"
    assert Path(_base(saved)).name in shown.replace("\\_", "_")


def test_a_folder_that_the_conditioning_reads_is_not_told(saved, tmp_path):
    opened = open_saved(saved)
    spec = {**opened.card["conditioning"], "encoder": {"kind": "timm", "model": f"local-dir:{tmp_path}/eyes"}}
    opened = replace(opened, card={**opened.card, "conditioning": spec})
    modelcard.write_card(tmp_path, opened, "diffusers", name="out", repo=None, report=None)
    shown = (tmp_path / "README.md").read_text()
    assert '"local-dir:eyes"' in shown
    assert str(tmp_path) not in shown


def test_the_card_of_a_comparison(saved, tmp_path):
    figure = {"value": 0.5, "interval": [0.4, 0.6], "n": 3, "missing": 0}
    content = {"benchmark": "Own | folder", "methods": {"mine": {"figures": {"dino": figure}}}}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    export(saved, tmp_path / "out", "single_file", report=tmp_path / "evaluation.json")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "On Own \\| folder; in brackets" in text
    assert "| mine | 0.500 (0.400 to 0.600) |" in text
    assert "](answers.png)" not in text


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "has no evaluation.json or report.json"),
        ({"rows": []}, ValueError, "has no figures by method"),
        (
            {"methods": {"a": {"figures": {"x": {"value": None, "interval": None}}}}},
            ValueError,
            "not finished",
        ),
    ],
)
def test_reports_that_hold_nothing(saved, tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(error, match=message):
        export(saved, tmp_path / "out", report=tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command(student, saved, tmp_path, capsys):
    assert main(["export", str(saved), str(tmp_path / "out"), "--format", "lora"]) == 0
    assert "lora (" in capsys.readouterr().out
    assert (tmp_path / "out" / LORA).is_file()
    assert main(["export", str(saved), str(tmp_path / "out"), "--format", "lora"]) == 2
    assert "out exists" in capsys.readouterr().err
    assert main(["export", str(saved), str(tmp_path / "new"), "--format", "gguf"]) == 2
    assert "takes one of diffusers, lora, comfyui, single_file, release" in capsys.readouterr().err
