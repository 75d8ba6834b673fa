import contextlib
import inspect
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import dsd
from dsd import stages
from dsd.cli import fit as fitting
from dsd.cli import main, options
from dsd.cli import sample as sampling
from dsd.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
FIT = "fit --out {tmp}/o --data.source r"
SAMPLE = "sample --model m --prompt x --out {tmp}/s"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


class Done:
    """What a call of the command line left behind."""

    def __init__(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                self.status = main([str(argument) for argument in arguments])
            except SystemExit as end:  # --help and --print_config
                self.status = end.code
        self.out, self.err = out.getvalue(), err.getvalue()


def ok(*arguments):
    done = Done(*arguments)
    assert done.status == 0, done.err
    return done.out


def line(*arguments):
    """The one line on stderr of a call that must fail."""
    done = Done(*arguments)
    assert done.status == 2
    assert done.out == ""
    (only,) = done.err.splitlines()
    return only


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Prompts, and a folder of pictures of them: two grids of noise and one with two panels alike."""
    root = tmp_path_factory.mktemp("world")
    prompts = [f"a grid of creature number {i}" for i in range(3)]
    (root / "prompts.txt").write_text("\n".join(prompts) + "\n")
    (root / "grids").mkdir()
    (root / "grids" / "prompts.txt").write_text("\n".join(prompts) + "\n")
    for i in range(3):
        grid = Image.effect_noise((128, 128), 90).convert("RGB")
        if i == 2:
            grid.paste(grid.crop((0, 0, 64, 64)), (64, 0))
        grid.save(root / "grids" / f"{i}.png")
    return root


def prepare(world, run):
    writer = json.dumps({"name": "file", "path": str(world / "prompts.txt")})
    said = [ok("prompts", "--run", run, "--writer", writer, "--count", 3, "--no_progress")]
    teacher = ["--teacher.name", "folder", "--teacher.path", world / "grids"]
    said.append(ok("grids", "--run", run, *teacher, "--no_progress"))
    said.append(ok("pairs", "--run", run, "--no_progress"))
    return said


@pytest.fixture(scope="module")
def run(world):
    """A run as the commands make it."""
    prepare(world, world / "run")
    return world / "run"


def test_the_stages_one_after_the_other(world, tmp_path):
    said = prepare(world, tmp_path / "run")
    assert [text.partition(" (")[0] for text in said] == [
        "prompts: 3 rows, 3 new", "grids: 3 rows, 3 new", "pairs: 36 rows, 36 new"
    ]  # fmt: skip
    curated = ok("curate", "--run", tmp_path / "run", "--curator", "heuristic", "--no_progress")
    assert curated.startswith("verdicts/heuristic: 36 rows, 36 new, accepted 34, rejected 2")
    run = dsd.Run(tmp_path / "run")
    assert len(run.accepted("heuristic")) == 34
    assert run.grids.manifest.spec["teacher"] == {"name": "folder", "path": str(world / "grids")}
    again = ok("curate", "--run", tmp_path / "run", "--curator", "heuristic", "--no_progress")
    assert "36 rows, 0 new" in again


def test_a_spec_is_the_same_on_the_command_line_in_yaml_and_in_python(run, tmp_path):
    spec = {"name": "heuristic", "min_sharpness": 0.2}
    config = tmp_path / "curate.yaml"
    config.write_text(yaml.safe_dump({"run": str(run), "curator": spec, "name": "yaml"}))
    everything = tmp_path / "all.yaml"
    commands = {"pairs": {"run": "elsewhere"}, "curate": {"run": str(run), "curator": spec}}
    everything.write_text(yaml.safe_dump(commands))
    ok("curate", "--config", config)
    ok("curate", "--run", run, "--name", "line", "--curator", "{name: heuristic, min_sharpness: 0.2}")
    dots = ["--curator.name", "heuristic", "--curator.min_sharpness", "0.2"]
    ok("curate", "--run", run, "--name", "dots", *dots)
    ok("--config", everything, "curate", "--name", "whole")
    ok("curate", "--config", config, "--name", "changed", "--curator.min_sharpness", "0.3")
    dsd.curate(run, spec, name="python", progress=False)
    names = ("yaml", "line", "dots", "whole", "changed", "python")
    verdicts = {name: dsd.Run(run).verdicts(name) for name in names}
    specs = {name: table.manifest.spec["curator"] for name, table in verdicts.items()}
    assert specs.pop("changed") == {"name": "heuristic", "min_sharpness": 0.3}
    assert all(found == spec for found in specs.values())
    assert len({table.manifest.ids for table in verdicts.values()}) == 1


def test_yaml_can_refer_to_other_options(world, run, tmp_path):
    config = tmp_path / "grids.yaml"
    config.write_text(f"run: {run}\nteacher: {{name: folder, path: '${{run}}/../grids'}}\n")
    shown = yaml.safe_load(ok("grids", "--config", config, "--print_config"))
    assert shown["teacher"]["path"].endswith("/../grids")
    assert "teacher" in line("grids", "--config", config)  # another path than the grids' own: another spec


def test_list_names_every_family_and_where_its_names_come_from():
    found = ok("list")
    blocks = {block.partition("\n")[0]: block for block in found.strip().split("\n\n")}
    families = ["prompts", "teachers", "captioners", "curators", "backbones", "conditioning", "metrics"]
    assert list(blocks) == [*families, "judges", "benchmarks", "methods"]
    assert "  rubric" in blocks["judges"]
    assert "  heuristic  dsd (dsd.curators.heuristic:HeuristicCurator)" in blocks["curators"].splitlines()
    assert "dsd (dsd.teachers.folder:FolderTeacher)" in blocks["teachers"]
    assert ok("list", "curators") == blocks["curators"] + "\n"
    assert "one of prompts, teachers, captioners, curators" in line("list", "curator")


def test_a_name_that_two_packages_claim_is_shown_with_both(monkeypatch):
    from importlib.metadata import EntryPoint

    points = [EntryPoint(name, f"{name}_package:Class", "dsd.curators") for name in ("heuristic", "theirs")]
    monkeypatch.setattr("dsd.registry.entry_points", lambda group: points if group == "dsd.curators" else [])
    shown = ok("list", "curators").splitlines()
    assert "  theirs     an unnamed package (theirs_package:Class)" in shown
    (both,) = [text for text in shown if "heuristic" in text]
    ours = "dsd (dsd.curators.heuristic:HeuristicCurator)"
    assert f"{ours} and an unnamed package (heuristic_package:Class)" in both


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("curate --run {run} --curator heurstic", "No Curator is named 'heurstic'. Did you mean 'heu"),
        ("curate --run {run} --curator '{name: heuristic, min_side: 3}'", "no argument 'min_side'. Did you"),
        ("curate --run {run} --curator.min_side_px 3", 'The spec of a Curator needs a "name"'),
        ("curate --run /nowhere/run --curator heuristic", "/nowhere/run"),
        ("grids --run {run} --teacher '{name: folder, path: /nowhere/grids}'", "no folder /nowhere/grids"),
        ("prompts --run {tmp}/r --writer.name file --writer.path {tmp}/e.txt --count 2", "row 2: the"),
        ("prompts --run {tmp}/r --count 0", "dsd prompts: `count` must be at least 1; got 0."),
        ("prompts --run {tmp}/file --count 1", "dsd prompts: Could not write {tmp}/file: "),
        ("prompts --run {run} --count 9 --seed 1", "dsd prompts: "),
        ("curate --config {tmp}/wrong.yaml", "There is no option 'curater'. Did you mean 'curator'?"),
        ("curate --config {tmp}/damaged.yaml", "dsd curate: "),
        ("curate --config {tmp}/none.yaml", "--config: File does not exist: '{tmp}/none.yaml'"),
        ("curate", "dsd curate: --run must be given. See dsd curate --help."),
        ("grids --run r --limit x", "dsd grids: --limit cannot be 'x': it takes int or null."),
        (f"{FIT} --student.train half", "--student.train cannot be 'half': it takes one of full, added."),
        (f"{FIT} --student.rl 1", "no option 'student.rl'. Did you mean 'student.lr'?"),
        (FIT, "Say how long to train, for example --trainer.max_steps 1000."),
        (f"{FIT} --trainer.max_steps 1 --data.source /nowhere", "/nowhere"),
        (f"{FIT} --trainer.max_steps 1 --resume", "There is nothing to resume"),
        (f"{FIT} --trainer.max_steps 1 --components some", "--components cannot be 'some': it takes one of"),
        (f"{SAMPLE} --image {{tmp}}/a.png --model /nowhere/m", "no folder '/nowhere/m'"),
        (f"{SAMPLE} --image {{tmp}}/b.png", "There is no picture {tmp}/b.png"),
        (f"{SAMPLE} --image {{tmp}}/file", "file cannot be used: it is none of PNG, JPEG"),
        (f"{SAMPLE} --image {{tmp}}/a.png --prompt ' '", "prompts that are not empty"),
        (f"{SAMPLE} --image {{tmp}}/a.png --out {{tmp}}/file", "dsd sample: Could not write {tmp}/file: "),
        (
            f"{FIT} --data.source {{run}} --data.policy every --trainer.max_steps 1 --out {{tmp}}/file",
            "dsd fit: Could not write {tmp}/file/training: Not a directory. A file stands where",
        ),
        ("evaluate --model m --out {tmp}/file", "dsd evaluate: Could not write {tmp}/file: "),
        ("encode --run /nowhere/run", "There is no run in /nowhere/run"),
        ("report --run /nowhere/run", "There is no run in /nowhere/run"),
        ("quickstart --out {tmp}/q --minutes 0", "`minutes` must be above 0; got 0"),
        ("lst", "dsd: There is no command 'lst'. Did you mean 'list'? Known: quickstart, prompts, grids,"),
    ],
)
def test_what_the_user_can_mend_is_one_clear_line_and_status_2(run, tmp_path, arguments, message):
    (tmp_path / "e.txt").write_text("a grid\n\nanother\n")
    (tmp_path / "file").write_text("not a folder, not a picture")
    (tmp_path / "wrong.yaml").write_text(f"run: {run}\ncurater: heuristic\n")
    (tmp_path / "damaged.yaml").write_text("run: {a: [\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def filled(text):
        return text.replace("{run}", str(run)).replace("{tmp}", str(tmp_path))

    said = line(*map(filled, shlex.split(arguments)))
    assert filled(message) in said
    assert said.startswith("dsd")


def test_debug_shows_where_it_happened(run):
    with pytest.raises(LookupError, match="'heurstic'"):
        main(["curate", "--run", str(run), "--curator", "heurstic", "--debug"])


def test_our_own_mistakes_are_not_dressed_as_the_users(monkeypatch, run):
    def broken(*args, **kwargs):
        return {}["a bug"]

    monkeypatch.setattr(stages, "curate", broken)
    with pytest.raises(KeyError, match="a bug"):
        main(["curate", "--run", str(run)])


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, run):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "curate", interrupted)
    done = Done("curate", "--run", run)
    assert done.status == 130
    assert done.err == "dsd curate: Interrupted. Call the command again: what was written stays.\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_with_its_meaning(name):
    shown = " ".join(ok(name, "--help").split())
    for prefix, group in COMMANDS[name].options()[1].items():
        assert group
        for option in group:
            assert option.help, f"{name} --{prefix}{option.name} is not explained"
            assert (option.name if COMMANDS[name].positional else f"--{prefix}{option.name}") in shown


@pytest.mark.parametrize(
    ("target", "function"),
    [(command.target, None) for command in COMMANDS.values()]
    + [("dsd.student:Student", dsd.Student), ("dsd.data.datamodule:PairDataModule", dsd.PairDataModule)],
)
def test_options_are_the_arguments_of_the_function(target, function):
    module, _, name = target.partition(":")
    function = function or getattr(__import__(module, fromlist=[name]), name)
    parameters = dict(inspect.signature(function).parameters)
    found = {option.name: option for option in options.read(target)[1]}
    assert set(parameters) - set(found) <= {"recipe"}
    for option in found.values():
        default = parameters[option.name].default
        assert option.required == (default is inspect.Parameter.empty)
        assert option.required or option.default == default


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ("int | None", int | None),
        ("'str | PathLike[str] | Backbone'", str),
        ("str | Mapping[str, Any] | Teacher", str | dict),
        ("Teacher", None),
        ("str | Sequence[str]", str | list),
        ("bool | str | None", bool | str | None),
        ("str | Any", str),
        ("tuple[int, int] | None", tuple | None),
    ],
)
def test_annotations_become_what_yaml_can_say(tmp_path, monkeypatch, annotation, kind):
    (tmp_path / "a_module.py").write_text(f"def f(x: {annotation}): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    read = options.read("a_module:f")[1]
    if kind is None:
        assert read == []
        return
    plain = [getattr(part, "__origin__", part) for part in getattr(read[0].type, "__args__", [read[0].type])]
    assert plain == list(getattr(kind, "__args__", [kind]))


def test_options_that_are_given_several_times_are_a_list(monkeypatch):
    calls = []
    monkeypatch.setattr(sampling, "sample", lambda **values: calls.append(values))
    base = ["sample", "--model", "m", "--out", "o", "--image", "i.png"]
    three = ["--prompt", "on a beach: at noon", "--prompt=in snow", "--seed", 3, "--prompt", "[not a list]"]
    ok(*base, *three)
    ok(*base, "--prompt", "on a beach: at noon")
    ok(*base, "--prompt", "[in snow, in rain]", "--image", "j.png")
    assert [(call["prompt"], call["image"]) for call in calls] == [
        (["on a beach: at noon", "in snow", "[not a list]"], "i.png"),
        ("on a beach: at noon", "i.png"),
        (["in snow", "in rain"], ["i.png", "j.png"]),
    ]
    assert calls[0]["seed"] == 3


@pytest.fixture(scope="module")
def trained(world, run, tiny_flux):
    """A student that was trained by the command line from a file, in one go."""
    config = world / "fit.yaml"
    content = {
        "student": {"base": str(tiny_flux), "lora": {"rank": 2}, "lr": 0.01},
        "data": {"source": str(run), "policy": "every", "batch_size": 4},
        "trainer": {"max_steps": 4, "accelerator": "cpu", **QUIET},
        "checkpoint_every_n_steps": 2,
    }
    config.write_text(yaml.safe_dump(content))
    said = ok("fit", "--config", config, "--out", world / "student")
    assert said == f"4 steps in all; the student is in {world / 'student'}\n"
    return config, world / "student"


def weights(folder):
    from safetensors.torch import load_file

    (file,) = (folder / "transformer").glob("*.safetensors")
    return load_file(file)


def test_fit_resumes_to_the_same_student(trained, world, tmp_path):
    import torch

    config, whole = trained
    assert (whole / "training" / "logs").is_dir()
    ok("fit", "--config", config, "--out", tmp_path / "s", "--trainer.max_steps", 2)
    assert "holds a training. Add --resume" in line("fit", "--config", config, "--out", tmp_path / "s")
    halfway = weights(tmp_path / "s")
    ok("fit", "--config", config, "--out", tmp_path / "s", "--resume")
    resumed, truth = weights(tmp_path / "s"), weights(whole)
    assert all(torch.equal(resumed[name], truth[name]) for name in truth)
    assert any(not torch.equal(halfway[name], truth[name]) for name in truth)


def test_a_training_stopped_by_ctrl_c_goes_on(trained, monkeypatch, tmp_path, ctrl_c_works):
    import signal

    import torch

    from dsd.student import Student

    config, whole = trained
    steps, handler = [], signal.getsignal(signal.SIGINT)
    real = Student.training_step

    def stopped_at_the_fourth(self, batch, batch_idx):
        steps.append(batch_idx)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Student, "training_step", stopped_at_the_fourth)
        done = Done("fit", "--config", config, "--out", tmp_path / "s")
    assert done.status == 130
    assert done.err.endswith("dsd fit: Interrupted. Call the command again: what was written stays.\n")
    assert signal.getsignal(signal.SIGINT) is handler
    ok("fit", "--config", config, "--out", tmp_path / "s", "--resume")
    resumed, truth = weights(tmp_path / "s"), weights(whole)
    assert all(torch.equal(resumed[name], truth[name]) for name in truth)


def test_fit_takes_lightnings_objects_and_names_its_arguments(trained, tmp_path):
    config, _ = trained
    said = line("fit", "--config", config, "--out", tmp_path / "s", "--trainer.max_step", 2)
    assert "lightning.Trainer has no argument 'max_step'. Did you mean 'max_steps'?" in said
    arguments = {"save_dir": str(tmp_path / "log")}
    built = fitting._built({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": arguments})
    assert built.save_dir == str(tmp_path / "log")


def test_sample_draws_what_the_pipeline_draws(trained, tmp_path):
    import numpy as np
    import torch

    _, student = trained
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a.png")
    Image.new("RGBA", (50, 90), (200, 10, 10, 255)).save(tmp_path / "b.png")
    images = ["--image", tmp_path / "a.png", "--image", tmp_path / "b.png"]
    prompts = ["--prompt", "the red creature on a beach", "--prompt", "in snow"]
    numbers = ["--num_inference_steps", 2, "--num_images_per_prompt", 2, "--batch_size", 3, "--seed", 7]
    where = ["--out", tmp_path / "out", "--device", "cpu", "--no_progress"]
    said = ok("sample", "--model", student, *images, *prompts, *numbers, *where)
    assert said == f"8 pictures and sheet.png in {tmp_path / 'out'}\n"
    entries = json.loads((tmp_path / "out" / "samples.json").read_text())
    files = [f"{i}-{j}-{k}.png" for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    assert [entry["file"] for entry in entries] == files
    pipe = dsd.DSDPipeline.from_pretrained(student)
    for entry in (entries[2], entries[7]):
        with Image.open(entry["image"]) as image:
            generator = torch.Generator().manual_seed(entry["seed"])
            drawn = pipe(image=image, prompt=entry["prompt"], generator=generator, num_inference_steps=2)
        (theirs,) = drawn.images
        ours = Image.open(tmp_path / "out" / entry["file"])
        assert np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)).max() <= 1


def test_sample_shows_prompts_seeds_and_guidance_on_one_sheet(trained, tmp_path):
    import numpy as np
    import torch

    _, student = trained
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a.png")
    words = ["--prompt", "the red creature on a beach", "--prompt", "in snow", "--seed", 3, "--seed", 8]
    words += [
        "--image_guidance",
        1,
        "--image_guidance",
        2.5,
        "--text_guidance",
        2,
        "--num_inference_steps",
        3,
        "--guidance_skip_steps",
        0,
    ]
    where = ["--out", tmp_path / "out", "--device", "cpu", "--no_progress"]
    said = ok("sample", "--model", student, "--image", tmp_path / "a.png", *words, *where)
    assert said == f"8 pictures and sheet.png in {tmp_path / 'out'}\n"
    entries = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [x["file"] for x in entries] == [
        f"0-{j}-{k}-{g}.png" for j in (0, 1) for g in (0, 1) for k in (0, 1)
    ]
    entry = entries[6]
    assert (entry["prompt"], entry["seed"], entry["image_guidance"]) == ("in snow", 3, 2.5)
    pipe = dsd.DSDPipeline.from_pretrained(student)
    with Image.open(tmp_path / "a.png") as image:
        (theirs,) = pipe(
            image=image,
            prompt="in snow",
            generator=torch.Generator().manual_seed(3),
            num_inference_steps=3,
            image_guidance=2.5,
            text_guidance=2.0,
            guidance_skip_steps=0,
        ).images
    ours = Image.open(tmp_path / "out" / entry["file"])
    assert np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)).max() <= 1
    page = np.asarray(Image.open(tmp_path / "out" / "sheet.png")).astype(int)
    for x in entries:  # each picture stands on the sheet, in its row and column
        shown = np.asarray(
            Image.open(tmp_path / "out" / x["file"]).resize((96, 96), Image.Resampling.LANCZOS)
        )
        row = 2 * (x["prompt"] == "in snow") + (x["image_guidance"] == 2.5)
        top, left = 16 + 19 + row * (96 + 6), 16 + 96 + 6 + 192 + 12 + (x["seed"] == 8) * (96 + 6)
        assert np.array_equal(page[top : top + 96, left : left + 96], shown)


def test_a_contact_sheet_refuses_rows_that_do_not_fit():
    from dsd.contact import contact_sheet

    picture = Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="each of 2 columns; got 1 rows"):
        contact_sheet([(picture, "a", [(["x"], [picture])])], ["seed 0", "seed 1"])


def test_each_row_of_a_contact_sheet_has_its_own_words():
    from PIL import Image, ImageChops

    from dsd.contact import contact_sheet

    picture = Image.new("RGB", (96, 96), "red")
    alike, other = (
        contact_sheet([(picture, "a", [(["first"], [picture]), ([words], [picture])])], ["seed 0"])
        for words in ("first", "second")
    )
    _, top, _, bottom = ImageChops.difference(alike, other).getbbox()
    assert top > 96, "the first row says the same"
    assert bottom - top < 20, "one line differs"


def test_words_on_a_contact_sheet_keep_their_width():
    from PIL import ImageFont

    from dsd.contact import shortened, wrapped

    font = ImageFont.load_default(13)
    lines = wrapped("a creature with horns sits on an extraordinarilylongwordthatneverends beach", font, 90)
    assert all(font.getlength(line) <= 90 for line in lines)
    assert " ".join(lines[:2]).startswith("a creature with horns")
    assert lines[-1] == "beach"
    assert shortened("short", font, 90) == "short"


def test_python_m_dsd_is_the_command_line(tmp_path):
    command = [sys.executable, "-m", "dsd", "list", "curator"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("dsd list: ")
    assert len(done.stderr.splitlines()) == 1
