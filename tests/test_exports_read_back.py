"""Exports for other programs, loaded again by `DSDPipeline`, and what they tell of where they were made."""

import json
import re
import shutil
import types
from pathlib import Path

import pytest
import torch
from diffusers import FluxControlPipeline, FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import single_file_model, single_file_utils
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dsd import DSDPipeline
from dsd.backbones.origin import is_local
from dsd.cli import main
from dsd.export import base_of, public_card
from dsd.publish import export
from tests.trained import trained

READ_BACK = ("lora", "comfyui", "single_file")
FILES = {
    "lora": "pytorch_lora_weights.safetensors",
    "comfyui": "comfyui_lora.safetensors",
    "single_file": "diffusion_model.safetensors",
}
CONDITIONINGS = {
    "parallel": "parallel",
    "concat": {"name": "concat", "fit": "contain"},
    "token_concat": {"name": "token_concat", "id_scheme": "uno"},
    "controlnet": {"name": "controlnet", "num_layers": 1, "num_single_layers": 1},
    "ip_adapter": {"name": "ip_adapter", "tokens": "pooled"},
}


@pytest.fixture(scope="module")
def students(tiny_flux, tmp_path_factory) -> dict[str, Path]:
    """Folders of students of all kinds; that of `parallel` has adapters on every kind of layer."""
    folders = {}
    for name, spec in CONDITIONINGS.items():
        lora = {
            "rank": 3,
            "alpha": 6,
            "targets": "blocks" if name == "parallel" else r".*attn\.to_[kq]|norm_out\.linear",
        }
        folders[name] = tmp_path_factory.mktemp("students") / name
        trained(tiny_flux, spec, lora).save_pretrained(folders[name], components="trained")
    return folders


@pytest.fixture
def exported(students, tmp_path):
    """Makes an export of a student, each in a folder of its own."""

    def make(form: str, name: str = "parallel", **arguments) -> Path:
        return export(students[name], tmp_path / f"{name}_{form}", form, **arguments).folder

    return make


def drawn(pipe: DSDPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    picture = Image.radial_gradient("L").resize((48, 40)).convert("RGB")
    return pipe(
        picture, "a cat", num_inference_steps=2, seed=5, output_type="latent", guidance_scale=2.0
    ).images


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal to 1e-6 of their size."""
    assert float((one - other).abs().max() / other.abs().max()) <= 1e-6


@pytest.mark.parametrize("form", READ_BACK)
@pytest.mark.parametrize("name", CONDITIONINGS)
def test_an_export_draws_as_its_student(name, form, students, exported, tiny_flux):
    theirs = DSDPipeline.from_pretrained(students[name])
    ours = DSDPipeline.from_pretrained(exported(form, name), base=tiny_flux)
    weights = ours.backbone.denoiser.state_dict()
    assert weights.keys() == theirs.backbone.denoiser.state_dict().keys()
    for key, value in theirs.backbone.denoiser.state_dict().items():
        torch.testing.assert_close(
            weights[key], value, atol=1e-6, rtol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert (ours.frame_size, type(ours.conditioning)) == ((32, 32), type(theirs.conditioning))
    assert (
        dict(ours.backbone.denoiser.config)["in_channels"]
        == dict(theirs.backbone.denoiser.config)["in_channels"]
    )
    assert_same(drawn(ours), drawn(theirs))
    base = FluxPipeline.from_pretrained(tiny_flux).transformer.state_dict()
    assert any(base[key].shape != x.shape or not torch.equal(base[key], x) for key, x in weights.items())


@pytest.mark.parametrize("form", READ_BACK)
def test_a_student_that_was_trained_in_full(form, tiny_flux, tmp_path):
    student = trained(tiny_flux)
    arguments = {} if form == "single_file" else {"rank": 200}  # of layers that have fewer rows: exact
    folder = export(student, tmp_path / "out", form, **arguments).folder
    pipe = DSDPipeline.from_pretrained(folder, base=tiny_flux)
    wanted = student.denoiser.state_dict()
    norms = {
        name for name, value in wanted.items() if value.ndim == 1 and "norm_" in name and "linear" not in name
    }
    for key, value in pipe.backbone.denoiser.state_dict().items():
        if form == "single_file" or key not in norms:  # no low-rank layer changes a norm, as the export logs
            torch.testing.assert_close(value, wanted[key], atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("form", READ_BACK)
def test_half_precision(form, students, exported, tiny_flux):
    pipe = DSDPipeline.from_pretrained(exported(form), base=tiny_flux, torch_dtype="bfloat16")
    theirs = DSDPipeline.from_pretrained(students["parallel"]).backbone.denoiser.state_dict()
    for key, value in pipe.backbone.denoiser.state_dict().items():
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value.float(), theirs[key], atol=2**-6, rtol=2**-7)


def test_the_file_alone_needs_conditioning_and_base(students, exported, tiny_flux, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(exported("lora") / FILES["lora"], tmp_path / "alone")
    with pytest.raises(ValueError, match="conditioning is unknown"):
        DSDPipeline.from_pretrained(tmp_path / "alone")
    with pytest.raises(FileNotFoundError, match="needs its base, which is not named"):
        DSDPipeline.from_pretrained(tmp_path / "alone", conditioning="parallel")
    pipe = DSDPipeline.from_pretrained(
        tmp_path / "alone", conditioning="parallel", base=tiny_flux, frame_size=(32, 32)
    )
    assert_same(drawn(pipe), drawn(DSDPipeline.from_pretrained(students["parallel"])))


def test_the_scale_of_an_adapter_counts(students, exported, tiny_flux):
    """As others write them: half of B with alpha of twice the rank."""
    folder = exported("lora")
    state = load_file(folder / FILES["lora"])
    halves = {name: x / 2 if "lora_B" in name else x for name, x in state.items()}
    alphas = {
        name.replace("lora_A.weight", "alpha"): torch.tensor(2.0 * len(x))
        for name, x in state.items()
        if "lora_A" in name
    }
    save_file({**halves, **alphas}, folder / FILES["lora"])
    pipe = DSDPipeline.from_pretrained(folder, base=tiny_flux)
    assert_same(drawn(pipe), drawn(DSDPipeline.from_pretrained(students["parallel"])))


@pytest.mark.parametrize("form", READ_BACK)
def test_what_does_not_fit_is_refused(form, exported, tiny_flux, tmp_path):
    folder = exported(form)
    with pytest.raises(FileNotFoundError, match=r"is a file\. Give its folder"):
        DSDPipeline.from_pretrained(folder / FILES[form])
    if form != "single_file":
        with pytest.raises(ValueError, match=r"belongs to another model|Give the base that the student"):
            DSDPipeline.from_pretrained(folder, base="mini")
    state = load_file(folder / FILES[form])
    key = next(name for name in state if name.endswith(("lora_B.weight", "qkv.weight")))

    def broken(match: str, content: dict[str, torch.Tensor]) -> None:
        save_file({name: x.contiguous() for name, x in content.items()}, folder / FILES[form])
        with pytest.raises(ValueError, match=match):
            DSDPipeline.from_pretrained(folder, base=tiny_flux)

    broken(
        "without its other half|one half of the adapter|is missing",
        {n: x for n, x in state.items() if n != key},
    )
    broken("adapts|has the shape|no one rank", {**state, key: state[key][:-1]})
    broken(r"holds .*(extra|stranger)", {**state, "stranger.extra": torch.ones(1)})
    broken("values that are not finite", {**state, key: state[key] * float("nan")})
    (folder / FILES[form]).write_bytes((folder / FILES[form]).read_bytes()[:-100])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        DSDPipeline.from_pretrained(folder, base=tiny_flux)
    (folder / FILES[form]).unlink()
    with pytest.raises(FileNotFoundError, match="its weights are missing"):
        DSDPipeline.from_pretrained(folder, base=tiny_flux)


def test_a_single_file_of_another_configuration(exported, tiny_flux):
    folder = exported("single_file")
    file = folder / "transformer" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "num_layers": config["num_layers"] + 1}))
    with pytest.raises(
        ValueError, match=r"double_blocks\.\d+\..* is missing, and by transformer/config\.json"
    ):
        DSDPipeline.from_pretrained(folder, base=tiny_flux)
    file.write_text(json.dumps({**config, "num_layers": config["num_layers"] - 1}))
    with pytest.raises(ValueError, match=r"holds 'double_blocks\.\d+\..*does not have"):
        DSDPipeline.from_pretrained(folder, base=tiny_flux)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*config\.json"):
        DSDPipeline.from_pretrained(folder, base=tiny_flux)


def test_the_command_draws_with_an_export(exported, tiny_flux, tmp_path, capsys):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "me.png")
    arguments = ["--image", str(tmp_path / "me.png"), "--prompt", "a cat", "--num_inference_steps", "1"]
    call = [
        "sample",
        "--model",
        str(exported("lora")),
        *arguments,
        "--out",
        str(tmp_path / "drawn"),
        "--no_progress",
    ]
    assert main(call) == 2
    assert f"was a folder {tiny_flux.name!r} of whoever exported it. Pass base=" in capsys.readouterr().err
    assert main([*call, "--base", str(tiny_flux)]) == 0
    assert Image.open(tmp_path / "drawn" / "0-0-0.png").size == (32, 32)


# --- the model card's lines


def code_of(folder: Path, marker: str) -> str:
    """The block of Python of a model card that holds a word, for this folder."""
    blocks = re.findall(r"```python\n(.+?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if marker in block]
    return block.replace('"FOLDER', f'"{folder}')


def run_card(folder: Path, marker: str, base: Path) -> dict[str, object]:
    names: dict[str, object] = {"reference": Image.new("RGB", (32, 32), "red")}
    exec(code_of(folder, marker).replace('"BASE"', f'"{base}"'), names)
    return names


@pytest.mark.parametrize("form", ["diffusers", *READ_BACK])
def test_the_cards_lines_of_dsd_draw(form, students, exported, tiny_flux):
    names = run_card(exported(form), "DSDPipeline", tiny_flux)
    assert names["picture"].size == (32, 32)
    assert_same(drawn(names["pipe"]), drawn(DSDPipeline.from_pretrained(students["parallel"])))


def stock_draws(pipe: FluxControlPipeline) -> None:
    """A step of the stock pipeline, in whose parts all types of numbers fit."""
    canvas = Image.new("RGB", (64, 32), "red")
    both = pipe(
        "a cat", control_image=canvas, height=32, width=64, num_inference_steps=1, output_type="pt"
    ).images
    assert both.shape == (1, 3, 32, 64)
    assert torch.isfinite(both).all()


def with_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Stock diffusers' conversion of FLUX.1 with the one width that it knows, 3072, made another."""
    stock = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    assert 3072 in stock.__code__.co_consts
    code = stock.__code__.replace(
        co_consts=tuple(width if x == 3072 else x for x in stock.__code__.co_consts)
    )
    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", types.FunctionType(code, stock.__globals__))


def test_the_cards_lines_of_a_single_file_in_stock_diffusers(students, exported, tiny_flux, monkeypatch):
    with_width(monkeypatch, 32)
    names = run_card(exported("single_file"), "from_single_file", tiny_flux)
    theirs = DSDPipeline.from_pretrained(students["parallel"]).backbone.denoiser.state_dict()
    ours = names["transformer"].state_dict()
    assert ours.keys() == theirs.keys()
    assert all(
        torch.equal(ours[key], value) or key in students for key, value in theirs.items() if "norm" in key
    )
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-6)
    assert type(names["pipe"]) is FluxControlPipeline
    assert names["pipe"].transformer.config.in_channels == 128


@pytest.mark.parametrize(
    ("form", "marker"), [("single_file", "from_single_file"), ("lora", "load_lora_weights")]
)
def test_the_cards_lines_of_a_half_precision_student_draw(form, marker, tiny_flux, tmp_path, monkeypatch):
    """Its input layer was trained in float32."""
    with_width(monkeypatch, 32)
    folder = export(trained(tiny_flux, lora={"rank": 2}, dtype="bfloat16"), tmp_path / "out", form).folder
    names = run_card(folder, marker, tiny_flux)
    assert names["pipe"].transformer.dtype == torch.bfloat16
    stock_draws(names["pipe"])


def test_the_cards_lines_of_a_lora_in_stock_diffusers(students, exported, tiny_flux):
    names = run_card(exported("lora"), "load_lora_weights", tiny_flux)
    names["pipe"].fuse_lora()
    theirs = DSDPipeline.from_pretrained(students["parallel"]).backbone.denoiser.state_dict()
    names["pipe"].unload_lora_weights()
    for key, value in names["pipe"].transformer.state_dict().items():
        torch.testing.assert_close(value, theirs[key], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_single_file_of_flux_width_in_stock_diffusers(tiny_flux, tmp_path):
    """Unchanged diffusers, whose width is 3072: a transformer of one double and one single block."""
    config = {
        "in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 24, "pooled_projection_dim": 20,
        "guidance_embeds": True,
    }  # fmt: skip
    shutil.copytree(tiny_flux, tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "transformer")
    torch.manual_seed(0)
    model = FluxTransformer2DModel(**config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base" / "transformer")
    del model
    student = trained(tmp_path / "base", lora={"rank": 2, "targets": "blocks"}, dtype="bfloat16")
    folder = export(student, tmp_path / "out", "single_file").folder
    names = run_card(folder, "from_single_file", tmp_path / "base")
    ours = DSDPipeline.from_pretrained(
        folder, base=tmp_path / "base", torch_dtype="bfloat16"
    ).backbone.denoiser
    theirs = names["transformer"].state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.state_dict().items())
    stock_draws(names["pipe"])


# --- what an export tells of the machine it is from


@pytest.mark.parametrize("form", ["diffusers", "release", *READ_BACK])
def test_no_path_of_this_machine_is_in_an_export(form, exported, students, tiny_flux, tmp_path):
    folder = exported(form)
    places = [str(place).encode() for place in (tiny_flux, students["parallel"], tmp_path, Path.home())]
    for file in (path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert not any(place in content for place in places), file
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                assert opened.metadata()["format"] == "pt", "transformers reads no file without it"
                assert "/" not in json.dumps(opened.metadata())
    assert tiny_flux.name in (students["parallel"] / "dsd.json").read_text(), (
        "a student of one's own keeps it"
    )


def test_a_base_that_is_a_folder_is_told_by_its_name(exported, tiny_flux):
    folder = exported("lora")
    card = json.loads((folder / "dsd.json").read_text())
    assert (card["base"], card["base_folder"]) == (None, tiny_flux.name)
    with pytest.raises(
        FileNotFoundError, match=rf"needs its base, which was a folder '{tiny_flux.name}' of whoever"
    ):
        DSDPipeline.from_pretrained(folder)
    text = (folder / "README.md").read_text()
    assert f"from a folder {tiny_flux.name}" in text.replace("\\", "")
    assert 'from_pretrained("FOLDER", base="BASE")' in text


def test_an_export_is_exported_again(exported, students, tiny_flux, tmp_path):
    """A folder whose base is told by its name alone."""
    whole = exported("diffusers")
    assert DSDPipeline.from_pretrained(whole).frame_size == (32, 32)
    with pytest.raises(FileNotFoundError, match="Pass base="):
        export(whole, tmp_path / "none", "lora")
    again = export(whole, tmp_path / "again", "lora", base=tiny_flux).folder
    pipe = DSDPipeline.from_pretrained(again, base=tiny_flux)
    assert_same(drawn(pipe), drawn(DSDPipeline.from_pretrained(students["parallel"])))


@pytest.mark.parametrize("base", ["mini", "black-forest-labs/FLUX.1-dev"])
def test_a_base_that_others_have_stays(base, tiny_flux, tmp_path):
    """By name, whether training or the export said it."""
    student = trained(tiny_flux, "token_concat", {"rank": 1})
    student.save_pretrained(tmp_path / "s", components="trained")
    card = json.loads((tmp_path / "s" / "dsd.json").read_text())
    (tmp_path / "s" / "dsd.json").write_text(json.dumps({**card, "base": base}))
    folder = export(tmp_path / "s", tmp_path / "out", "single_file").folder
    assert json.loads((folder / "dsd.json").read_text())["base"] == base
    text = (folder / "README.md").read_text()
    assert 'DSDPipeline.from_pretrained("FOLDER")' in text
    assert ("base_model: black-forest-labs/FLUX.1-dev" in text) == (base != "mini")


def test_the_place_that_the_export_is_told_of_is_the_one_it_tells(students, tmp_path):
    folder = export(students["parallel"], tmp_path / "out", "single_file", base="some-owner/flux").folder
    assert json.loads((folder / "dsd.json").read_text())["base"] == "some-owner/flux"


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("/models/flux", "flux"),
        ("~/flux", "flux"),
        ("./here/flux", "flux"),
        ("runs/all/flux", "flux"),
        ("C:\\models\\flux", "flux"),
        ({"base": "/models/flux", "max_text_tokens": 64}, "flux"),
        ({"base": "owner/flux", "denoiser": "/secret/wider"}, "wider"),
    ],
)
def test_cards_for_others(base, name):
    card = {
        "base": base,
        "conditioning": {"name": "ip_adapter", "encoder": "/secret/eyes"},
        "frame_size": [8, 8],
    }
    public = public_card(card)
    assert public == {
        "base": None, "base_folder": name, "frame_size": [8, 8],
        "conditioning": {"name": "ip_adapter", "encoder": "eyes"},
    }  # fmt: skip
    assert public_card(public) == public
    assert card["base"] == base, "the student's own card stays"
    with pytest.raises(FileNotFoundError, match=name):
        base_of(public, "out")


def test_cards_for_others_keep_what_others_have(tmp_path, monkeypatch):
    encoders = [{"kind": "timm", "model": "hf-hub:timm/vit"}, "google/siglip", "mini", ["owner/a", 3, None]]
    for base in ("mini", "owner/flux", {"base": "owner/flux", "prompt": "a 1x2 grid and/or pair: {caption}"}):
        for encoder in encoders:
            card = {"base": base, "conditioning": {"name": "ip_adapter", "encoder": encoder}}
            assert public_card(card) == card
    local = {"base": "mini", "conditioning": {"encoder": {"kind": "timm", "model": "local-dir:/secret/vit"}}}
    assert public_card(local)["conditioning"]["encoder"]["model"] == "local-dir:vit"
    monkeypatch.chdir(tmp_path)
    assert not is_local("owner/flux")
    (tmp_path / "owner" / "flux").mkdir(parents=True)
    assert is_local("owner/flux"), "a folder here, whatever the Hub has"
