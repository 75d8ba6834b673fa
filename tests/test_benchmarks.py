"""The loaders against folders of exactly the published layouts, and against what breaks in such folders."""

import io
import json
import shutil
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from dsd import opening
from dsd.evaluation import benchmarks
from dsd.evaluation.benchmarks import BenchmarkCase, pictures
from dsd.evaluation.benchmarks.base import Benchmark, cases_of, digest_of
from dsd.evaluation.benchmarks.dreambench_plus import canonical_key, category_of, split_key
from dsd.evaluation.benchmarks.dreambooth import parse_prompts
from dsd.mini import world
from tests.benchmark_folders import SUBJECTS, dreambench, dreambooth, picture, prompts_and_classes


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return dreambench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def booth(tmp_path_factory):
    return dreambooth(tmp_path_factory.mktemp("booth"))


def test_dreambench_has_its_150_pictures_and_1350_prompts_in_their_groups(bench):
    cases = cases_of(benchmarks.create({"name": "dreambench++", "root": bench}))
    assert len(cases) == 1350
    assert len({case.subject for case in cases}) == 150
    assert Counter(case.category for case in cases) == {
        "animal": 405,
        "human": 180,
        "object": 585,
        "style": 180,
    }
    assert Counter(case.kind for case in cases) == {"photorealistic": 600, "style": 450, "imaginative": 300}
    assert benchmarks.create({"name": "dreambench++", "root": bench / "data"}).load() == cases


def test_keys_of_dreambench_are_those_of_its_files(bench):
    cases = {case.key: case for case in benchmarks.create({"name": "dreambench++", "root": bench}).load()}
    case = cases["live_subject_animal_07_cotton-top_tamarin-4"]
    assert (case.prompt, case.subject_name) == (
        "Cotton-top Tamarin in place 4 of live_subject/animal",
        "Cotton-top Tamarin",
    )
    assert (case.category, case.kind) == ("animal", "style")
    assert cases["object_20_rubik's_cube-8"].subject_name == "Magic Cube"
    # The categories are those of the folders, not of words in names.
    assert cases["object_33_humanoid_style-3_robot-0"].category == "object"
    assert cases["live_subject_human_03_human-like_android-7"].kind == "imaginative"
    stored = Image.open(bench / "data/images/object/07.jpg").convert("RGB")
    assert np.array_equal(np.asarray(cases["object_07_spider-man-0"].reference), np.asarray(stored))


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("live_subject_animal_07_cotton-top_tamarin-4", ("live_subject_animal_07_cotton-top_tamarin", 4)),
        ("object_07_spider-man-0_0", ("object_07_spider-man", 0)),
        ("object_64_t-shirt-8_3", ("object_64_t-shirt", 8)),
        ("style_02_ukiyo-e-5", ("style_02_ukiyo-e", 5)),
        ("style_11_low-poly_geometric-1", ("style_11_low-poly_geometric", 1)),
    ],
)
def test_keys_split_on_the_last_hyphen(key, parts):
    assert split_key(key) == parts


def test_a_name_of_two_spellings_is_one_key():
    spellings = ["object_20_magic_cube-3", "object_20_rubik's_cube-3", "object_20_rubik's_cube-3_0"]
    assert {canonical_key(key) for key in spellings} == {"object_20_rubik's_cube-3"}
    assert canonical_key("object_21_magic_cube_stand-3") == "object_21_magic_cube_stand-3"
    assert category_of("object_33_humanoid_style-3_robot-0") == "object"
    assert category_of("live_subject_human_00_animal_tamer-0_0") == "human"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "object",
        "object_07_spider-man",
        "object_07_x-9",
        "object_07_x-12",
        "car_1_x-1",
        "object_x-1",
        "object_07_x-1_",
    ],
)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match="no key of DreamBench"):
        split_key(key)


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (
            lambda d: (d / "images/object/09.jpg").unlink(),
            FileNotFoundError,
            "images/object/09.jpg is missing",
        ),
        (
            lambda d: (d / "captions/style/03.txt").unlink(),
            FileNotFoundError,
            "captions/style/03.txt is missing",
        ),
        (lambda d: (d / "captions/object/09.txt").write_text("Cup\na\nb\n"), ValueError, "has 3 lines"),
        (
            lambda d: (d / "captions/object/09.txt").write_text("Cup\n" + "\n".join("abcdefg") + "\n\nx\n"),
            ValueError,
            "1 are empty",
        ),
        (
            lambda d: (d / "captions/object/09.txt").write_bytes(b"\xff\xfe\x00"),
            ValueError,
            "no text in UTF-8",
        ),
        (
            lambda d: (d / "images/object/09.jpg").write_bytes(b"no picture"),
            ValueError,
            "09.jpg cannot be used",
        ),
        (
            lambda d: (d / "images/object/09.jpg").write_bytes(
                (d / "images/object/08.jpg").read_bytes()[:500]
            ),
            ValueError,
            "09.jpg cannot be used",
        ),
        (lambda d: shutil.rmtree(d / "images/live_subject/human"), FileNotFoundError, "live_subject/human"),
    ],
)
def test_missing_and_damaged_parts_of_dreambench_are_named(bench, tmp_path, damage, error, said):
    shutil.copytree(bench / "data", tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(error, match=said):
        benchmarks.create({"name": "dreambench++", "root": tmp_path}).load()


def test_an_incomplete_dreambench_is_taken_only_if_it_is_said(tmp_path):
    root = dreambench(tmp_path, {"object": 3, "style": 2})
    with pytest.raises(FileNotFoundError, match=r"live_subject/animal has 0 pictures \(.jpg\), not 45"):
        benchmarks.create({"name": "dreambench++", "root": root}).load()
    assert len(benchmarks.create({"name": "dreambench++", "root": root, "complete": False}).load()) == 45
    with pytest.raises(FileNotFoundError, match=r"no folder .*Give --root"):
        benchmarks.create({"name": "dreambench++", "root": tmp_path / "nowhere"})


def test_dreambooth_has_its_750_cases(booth):
    cases = cases_of(benchmarks.create({"name": "dreambooth", "root": booth}))
    assert len(cases) == 750
    assert Counter(case.category for case in cases) == {"live subject": 9 * 25, "object": 21 * 25}
    kinds = Counter(case.kind for case in cases)
    assert kinds == {
        "recontextualization": 21 * 20 + 9 * 10,
        "accessorization": 90,
        "property modification": 150,
    }
    by_key = {case.key: case for case in cases}
    assert by_key["bear_plushie-3"].prompt == "a stuffed animal on place 3"
    assert by_key["dog8-24"].prompt == "a dog with dress 24"
    assert len(by_key["dog8-24"].references) == 2
    assert benchmarks.create({"name": "dreambooth", "root": booth}).images_per_prompt == 4


def test_dreambooth_with_a_token_and_fewer_references(booth):
    spec = {"name": "dreambooth", "root": booth / "dataset", "token": "sks", "references": 1}
    case = benchmarks.create(spec).load()[0]
    assert case.prompt == "a sks backpack on place 0"
    assert len(case.pictures) == 1


def test_the_index_of_google_dreambooth_is_parsed_as_it_stands():
    found = parse_prompts(prompts_and_classes())
    assert found.classes == SUBJECTS
    assert found.objects[24] == "a {0} {1} on place 24"
    assert len(found.live) == 25
    double = prompts_and_classes().replace("'a {0} {1} on place 3'", '"a {0} {1}\'s place"')
    assert parse_prompts(double).objects[3] == "a {0} {1}'s place"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.replace("'a {0} {1} on place 3'.format(unique_token, class_token),\n", ""),
            "has 24 prompts below 'Object",
        ),
        (
            lambda t: t.replace("on place 3'.format(unique_token, class_token)", "on place 3'"),
            "is not understood",
        ),
        (lambda t: t.replace("{0} {1} on place 3", "{0.__class__} {1} on place 3"), "is not understood"),
        (lambda t: t.replace("{0} {1} on place 3", "{1} on place 3"), "is not understood"),
        (
            lambda t: t.replace("'a {0} {1} on place 3'.format", "__import__('os').system"),
            "is not understood",
        ),
        (lambda t: t.replace("cat2,cat", "cat,cat"), "names the subject 'cat' again"),
        (lambda t: t.replace("cat2,cat", "../cat,cat"), "no subject and class"),
        (lambda t: t.replace("Live Subject Prompts", "Other Prompts"), "is not understood"),
        (lambda t: "Prompts\n" + t[t.index("Object Prompts") :], "names no subject"),
    ],
)
def test_an_index_that_is_damaged_or_means_harm_is_refused(change, said):
    text = prompts_and_classes()
    assert change(text) != text
    with pytest.raises(ValueError, match=said):
        parse_prompts(change(text))


def test_missing_parts_of_dreambooth_are_named(booth, tmp_path):
    shutil.copytree(booth / "dataset", tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "vase")
    with pytest.raises(FileNotFoundError, match=r"no folder .*vase"):
        benchmarks.create({"name": "dreambooth", "root": tmp_path / "d"}).load()
    assert (
        len(benchmarks.create({"name": "dreambooth", "root": tmp_path / "d", "complete": False}).load())
        == 725
    )
    for file in (tmp_path / "d" / "cat").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="cat holds no picture"):
        benchmarks.create({"name": "dreambooth", "root": tmp_path / "d", "complete": False}).load()
    (tmp_path / "d" / "prompts_and_classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*prompts_and_classes"):
        benchmarks.create({"name": "dreambooth", "root": tmp_path / "d"}).load()


def own(root, *entries):
    for name in ("cup.png", "dogs/rex.png", "dogs/rex2.png", "truth.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(name).save(root / name)
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (root / "cases.jsonl").write_text("\n".join(lines) + "\n")
    return benchmarks.create({"name": "folder", "root": root})


def test_a_folder_of_ones_own(tmp_path):
    cases = own(
        tmp_path,
        {"prompt": "a cup on a beach", "reference": "cup.png"},
        {"prompt": "a cup in snow", "reference": "cup.png", "kind": "weather"},
        "",
        {
            "key": "rex/1", "prompt": "Rex sleeps", "reference": ["dogs/rex.png", "dogs/rex2.png"],
            "subject": "rex", "subject_name": "a dog", "category": "dog", "truth": "truth.png",
        },
    ).load()  # fmt: skip
    assert [case.key for case in cases] == ["cup-0", "cup-1", "rex/1"]
    assert [case.kind for case in cases] == ["", "weather", ""]
    assert (cases[2].subject, cases[2].subject_name, cases[2].category) == ("rex", "a dog", "dog")
    assert [x.tobytes() for x in cases[2].references] == [
        picture(f"dogs/{x}.png").tobytes() for x in ("rex", "rex2")
    ]
    assert cases[2].true_picture.tobytes() == picture("truth.png").tobytes()
    assert cases[0].true_picture is None


@pytest.mark.parametrize(
    ("entry", "error", "said"),
    [
        ("{", ValueError, "Line 1 of .*cases.jsonl is not JSON"),
        ('{"prompt": "x"}', ValueError, "must be an object with `prompt` and `reference`"),
        ({"prompt": "x", "reference": "none.png"}, FileNotFoundError, "'none.png', which is not there"),
        ({"prompt": "x", "reference": "../out.png"}, ValueError, "outside the folder"),
        ({"prompt": "x", "reference": "/etc/passwd"}, ValueError, "outside the folder"),
        ({"prompt": " ", "reference": "cup.png"}, ValueError, "empty prompt"),
        ({"prompt": "x" * 4001, "reference": "cup.png"}, ValueError, "has 4001 characters; at most 4000"),
        ({"prompt": "x", "reference": []}, ValueError, "`reference` must be a path or a list"),
        ({"prompt": 3, "reference": "cup.png"}, ValueError, "`prompt` must be a text"),
        ({"prompt": "x", "reference": "cup.png", "promt": ""}, ValueError, "unknown field 'promt'"),
    ],
)
def test_wrong_lines_of_an_own_index_are_named(tmp_path, entry, error, said):
    (tmp_path / "out.png").write_bytes(b"")
    (tmp_path / "in").mkdir()
    with pytest.raises(error, match=said):
        own(tmp_path / "in", entry).load()


class Given(Benchmark):
    title = "Given"

    def __init__(self, cases):
        self.given = cases

    def load(self):
        return self.given


def case(key, **more):
    return BenchmarkCase(**{"key": key, "prompt": "p", "pictures": (picture(key),), "subject": key, **more})


def test_duplicate_keys_and_empty_benchmarks_are_refused():
    with pytest.raises(ValueError, match="1 keys are there more than once, such as 'a'"):
        cases_of(Given([case("a"), case("b"), case("a")]))
    with pytest.raises(ValueError, match="Given has no case"):
        cases_of(Given([]))
    with pytest.raises(ValueError, match="no picture of its subject"):
        case("a", pictures=())


def test_a_limit_takes_a_spread_that_larger_limits_hold(bench):
    built = benchmarks.create({"name": "dreambench++", "root": bench})
    some, more = cases_of(built, 90), cases_of(built, 200)
    assert len(some) == 90
    assert {x.key for x in some} < {x.key for x in more}
    assert len({x.kind for x in some}) == 3
    assert len({x.category for x in some}) == 4
    assert len({split_key(x.key)[1] for x in some}) == 9
    order = [x.key for x in built.load()]
    assert [x.key for x in some] == sorted((x.key for x in some), key=order.index)
    with pytest.raises(ValueError, match="`limit` must be at least 1; got 0"):
        cases_of(built, 0)


def test_the_digest_is_of_what_is_asked_for():
    first = digest_of([case("a"), case("b")])
    assert first == digest_of([case("a"), case("b")])
    assert first != digest_of([case("a"), case("b", prompt="q")])
    assert first != digest_of([case("a", category="b"), case("b")])


def test_the_small_world_is_the_held_out_characters():
    cases = benchmarks.create({"name": "small_world", "characters": 3, "scenes": 2, "seed": 5}).load()
    assert [x.key for x in cases] == [f"character_{i:03d}-{j}" for i in range(3) for j in range(2)]
    assert [world.scene_of(x.prompt) for x in cases] == [x.kind for x in cases]
    assert len({x.reference.tobytes() for x in cases}) == 3
    assert all(x.true_picture.tobytes() != x.reference.tobytes() for x in cases)


def save(image, path, **more):
    image.save(path, **more)
    return path


def test_pictures_are_turned_and_laid_over_white(tmp_path):
    tall = Image.new("RGB", (4, 8))
    tall.paste((255, 0, 0), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = pictures.open_picture(save(tall, tmp_path / "t.png", exif=exif))
    assert turned.size == (8, 4)
    assert turned.getpixel((7, 0)) == (255, 0, 0)
    glass = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    glass.putpixel((1, 0), (10, 20, 30, 255))
    shown = pictures.open_picture(save(glass, tmp_path / "g.png"))
    assert (shown.mode, list(shown.getdata())) == ("RGB", [(255, 255, 255), (10, 20, 30)])
    grey = pictures.open_picture(save(Image.new("L", (1, 1), 77), tmp_path / "l.png"))
    assert grey.getpixel((0, 0)) == (77, 77, 77)


def bomb(path, side):
    """A PNG whose head promises side x side pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("side", [8_000, 60_000])
def test_image_bombs_are_refused_before_they_are_decoded(tmp_path, side, monkeypatch):
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: decoded.append(self.size))
    with pytest.raises(ValueError, match=r"b.png cannot be used: .*(at most 50,000,000|exceeds limit)"):
        pictures.open_picture(bomb(tmp_path / "b.png", side))
    assert decoded == []


def test_what_is_no_usable_picture_is_named(tmp_path, monkeypatch):
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"d.png cannot be used: .*no fixed range"):
        pictures.open_picture(save(deep, tmp_path / "d.png"))
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    for ending in ("png", "jpg", "webp"):
        whole = save(noise, tmp_path / f"w.{ending}").read_bytes()
        cut = tmp_path / f"c.{ending}"
        cut.write_bytes(whole[: len(whole) * 2 // 3])
        for read in (pictures.open_picture, pictures.check_picture):
            with pytest.raises(ValueError, match=f"c.{ending} cannot be used"):
                read(cut)
        pictures.check_picture(tmp_path / f"w.{ending}")
    buffer = io.BytesIO()
    noise.save(buffer, "GIF")
    with pytest.raises(ValueError, match="answer cannot be used"):
        pictures.decode_picture(buffer.getvalue(), "answer")
    with pytest.raises(FileNotFoundError, match="no picture"):
        pictures.open_picture(tmp_path / "none.png")
    monkeypatch.setattr(opening, "MAX_FILE_BYTES", 200)
    with pytest.raises(ValueError, match="at most 200 are read"):
        pictures.open_picture(tmp_path / "w.png")


@pytest.mark.parametrize("name", ["dreambench++", "dreambooth", "folder", "small_world"])
def test_every_benchmark_says_what_it_is(name):
    found = benchmarks.get(name)
    assert found.title
    assert "Args:" in found.__doc__
