"""The study of curators: where its labelled pairs come from."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import mannwhitneyu

import dsd
from dsd import grids, teachers
from dsd.curators import Verdict
from dsd.mini import render, world
from dsd.mini.measure import SAME, identity, measure
from dsd.studies import Label, LabelledPairs, compare_curators
from dsd.studies.curators import labelled_pairs
from dsd.studies.curators_results import Results, Verdicts
from dsd.studies.curators_tables import tables
from dsd.studies.curators_verdicts import Timed, entries
from dsd.types import Grid
from tests.cheap_world import make_run
from tests.curators_study import GOOD, Scripted, picture, picture_table
from tests.hostile import png_bomb


@pytest.fixture
def table(tmp_path):
    return picture_table(tmp_path)


def test_a_table_of_pictures_is_read(table, tmp_path):
    path = table(*GOOD, "3.png,5.png,unsure,other class")
    for source in (path, path.parent):
        found = labelled_pairs(source)
        assert [(x.same, x.group, x.subjects) for x in found.labels] == [
            (True, "same subject", ("s0",)),
            (False, "same class, other subject", ("s1", "s2")),
            (False, "other class", ("s0", "s2")),
        ]
        assert (found.hard, found.left_out) == ("same class, other subject", 1)
    pairs = dict(found.load([x.pair_id for x in found.labels]))
    told = {(x.subject, x.caption, x.kind, x.source, x.grid_id) for x in pairs.values()}
    assert told == {("", "", "object", tmp_path.name, "")}, "nothing that a judge may read tells the label"
    assert list(pairs) == [x.pair_id for x in found.labels]
    assert np.array_equal(np.asarray(pairs[found.labels[1].pair_id].target), np.asarray(picture(104)))
    assert list(dict(found.load({found.labels[2].pair_id}))) == [found.labels[2].pair_id]


def test_pairs_that_share_a_picture_are_drawn_together_where_subjects_are_unknown(table, tmp_path):
    (tmp_path / "subjects.csv").unlink()
    path = table(*GOOD, "0.png,4.png,0,other class")
    found = labelled_pairs(path)
    assert not any(x.subjects for x in found.labels)
    facts = compare_curators(path, tmp_path / "out", "histogram", resamples=20, progress=False)
    assert facts["pairs"]["resampled"] == 5  # pictures 0, 1, 2, 4 and 5
    assert "over 5 pictures;" in (tmp_path / "out" / "report.md").read_text()
    first, second, _, last = (set(x.pictures) for x in found.labels)
    assert (len(first & last), len(second & last), len(first & second)) == (1, 1, 0)


@pytest.mark.parametrize(
    ("subjects", "unit"),
    [
        ({"0": ("a", "b"), "1": ("c",)}, "3 subjects;"),
        ({"0": ("a",)}, "2 subjects and pairs;"),
        ({}, "2 pairs;"),
    ],
)
def test_the_report_says_what_the_intervals_are_over(subjects, unit):
    labels = tuple(Label(pair_id=i, same=i == "0", subjects=subjects.get(i, ())) for i in "01")
    pairs = LabelledPairs(source="x", truth="x", labels=labels, load=lambda ids: iter(()))
    (entry,) = entries({"one": Scripted()})
    timed = [Timed(pair_id=i, verdict=Verdict(keep=True, score=0.1), seconds=0.1) for i in "01"]
    found = tables(Results(pairs, [Verdicts(entry=entry, timed=timed)], count=10))
    assert f"over {unit}" in found["scores_all"].text


def test_a_pair_shows_two_at_most():
    with pytest.raises(ValueError, match="has 3 subjects: a, b, c"):
        Label(pair_id="x", same=False, subjects=("a", "b", "c"))


def test_a_table_with_other_columns_and_folders_is_read(table, tmp_path):
    (tmp_path / "subjects.csv").unlink()
    path = table(
        "images/0.png,images/1.png,Same,a,a", "images/2.png,images/4.png,different,b,c", head="x,y,z,u,v"
    )
    columns = {"reference": "x", "target": "y", "label": "z", "reference_subject": "u", "target_subject": "v"}
    found = labelled_pairs(path, columns=columns, images=tmp_path)
    assert [(x.same, x.group, x.subjects) for x in found.labels] == [
        (True, "", ("a",)),
        (False, "", ("b", "c")),
    ]
    assert found.hard == ""


@pytest.mark.parametrize(
    ("lines", "given", "message"),
    [
        (("0.png,9.png,1,x",), {}, r"1 pictures that cannot be used: 9.png: No such file"),
        (("0.png,../secret.png,1,x",), {}, r"../secret.png: leads out of the folder"),
        (("0.png,/etc/passwd,1,x",), {}, r"/etc/passwd: leads out of the folder"),
        (
            ("0.png,1.png,perhaps,x",),
            {},
            r"line 2, column 'same_subject': 'perhaps' is no label. Allowed: same",
        ),
        (("0.png,,1,x",), {}, r"line 2 does not name two pictures"),
        ((*GOOD, GOOD[0]), {}, r"line 5 shows the same two pictures as line 2"),
        (("0.png,2.png,1,x",), {}, r"line 2 says '1', but the pictures show 's0' and 's1'"),
        ((GOOD[0],), {}, r"has 1 pairs of the same subject and 0 of different ones"),
        (
            GOOD,
            {"columns": {"label": "truth"}},
            r"no column 'truth'. It has: reference, target, same_subject, kind",
        ),
        (GOOD, {"columns": {"group": "gruop"}}, r"no column 'gruop'"),
        (GOOD, {"columns": {"picture": "x"}}, r"`columns` names 'picture'. Allowed: reference, target"),
        (
            GOOD,
            {"hard": "twins"},
            r"no different pairs of the group 'twins'. Groups: other class, same class",
        ),
        (GOOD, {"labels": "x.csv"}, r"`labels` go with a run"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(table, lines, given, message):
    path = table(*lines)
    with pytest.raises(ValueError, match=message):
        labelled_pairs(path, **given)


def test_pictures_that_are_damaged_or_bombs_are_found_before_anything_is_judged(table, tmp_path):
    path = table(*GOOD)
    file = tmp_path / "images" / "4.png"
    file.write_bytes(file.read_bytes()[:900])
    curator = Scripted()
    with pytest.raises(ValueError, match=r"4.png: .*truncated"):
        compare_curators(path, tmp_path / "out", {"one": curator}, progress=False)
    assert not curator.seen
    file.write_bytes(png_bomb(8_000))
    with pytest.raises(ValueError, match=r"names 1 pictures.*4.png: .*at most 50,000,000 pixels"):
        labelled_pairs(path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        labelled_pairs(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no table of subjects"):
        labelled_pairs(path, subjects=tmp_path / "nothing.csv")


def test_characters_that_are_drawn_have_known_labels():
    found = labelled_pairs("mini")
    kinds = [x.group for x in found.labels]
    assert [kinds.count(kind) for kind in ("same character", "relative", "other character")] == [120, 60, 60]
    assert (found.hard, labelled_pairs("mini").digest) == ("relative", found.digest)
    pairs = dict(found.load([x.pair_id for x in found.labels]))
    some = found.labels[:120]
    alike = np.array(
        [identity(measure(pairs[x.pair_id].reference), measure(pairs[x.pair_id].target)) for x in some]
    )
    group = np.array([x.group for x in some])
    assert (alike[group == "same character"] >= SAME).mean() > 0.9
    assert (alike[group == "other character"] < SAME).all()
    positive, negative = alike[group == "same character"], alike[group == "relative"]
    area = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert area > 0.9, "the measure, which sees only pixels, puts relatives below"
    with pytest.raises(ValueError, match="are drawn here"):
        labelled_pairs("mini", hard="twins")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", count=3, size=128, curator=None)


def test_a_run_is_labelled_by_measurement(tmp_path, monkeypatch):
    """Grids of the renderer: in each, panels 0 and 1 show one character, and 2 and 3 two others."""
    rng, of_grid = random.Random(0), {}

    class Renderer(teachers.Teacher):
        batch_size = 8

        def draw(self, prompts, seeds):
            drawn = []
            for prompt, seed in zip(prompts, seeds, strict=True):
                one, two, three = (world.sample_character(rng) for _ in range(3))
                panels = [render.render_image(x, world.sample_context(rng)) for x in (one, one, two, three)]
                of_grid[prompt.id] = panels
                image = grids.compose(panels, prompt.layout)
                drawn.append(Grid(image=image, prompt=prompt, seed=seed, teacher="renderer"))
            return drawn

    run = dsd.Run(tmp_path / "run")
    dsd.write_prompts(run, count=5, progress=False)
    dsd.draw_grids(run, teacher=Renderer(), progress=False)
    dsd.make_pairs(run, progress=False)
    found = labelled_pairs(run, workers=1)
    monkeypatch.setattr("dsd.studies.curators_pairs._MEASURED_AT_ONCE", 3)
    assert labelled_pairs(run, workers=1).labels == found.labels
    assert found.units == "grids"
    drawn = dict(run.pairs.items())
    truth = {i: {p.reference_panel, p.target_panel} == {0, 1} for i, p in drawn.items()}
    assert sum(truth.values()) == 10
    assert np.mean([truth[x.pair_id] == x.same for x in found.labels]) > 0.9
    for x in found.labels:
        pair = drawn[x.pair_id]
        assert x.same == (identity(measure(pair.reference), measure(pair.target)) >= SAME)
        assert x.subjects == (pair.grid_id,)


def test_a_run_of_other_sizes_needs_labels_of_people(tmp_path):
    run = make_run(tmp_path / "run", count=1, size=64, curator=None)
    with pytest.raises(ValueError, match=r"panels of \(32, 32\) px, not 64 x 64.*Give `labels`"):
        labelled_pairs(run.path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_people_said_of_a_run_is_read(run, tmp_path, kind):
    ids = run.pairs.ids()
    said = [
        *[(ids[0], "same"), (ids[1], "different"), (ids[2], "unsure")],
        *[(ids[3], "same"), (ids[3], "same"), (ids[3], "different")],  # most say so
        *[(ids[4], "same"), (ids[4], "different")],  # nobody knows
    ]
    path = tmp_path / f"labels.{kind}"
    if kind == "csv":
        path.write_text("pair_id,label\n" + "".join(f"{i},{x}\n" for i, x in said))
    else:
        pq.write_table(pa.table({"pair_id": [i for i, _ in said], "label": [x for _, x in said]}), path)
    found = labelled_pairs(run.path, labels=path)
    assert {x.pair_id: x.same for x in found.labels} == {ids[0]: True, ids[1]: False, ids[3]: True}
    assert found.left_out == 2
    grid_of = {i: pair.grid_id for i, pair in run.pairs.items()}
    assert all(x.subjects == (grid_of[x.pair_id],) for x in found.labels)
    assert dict(found.load({ids[1]}))[ids[1]].id == ids[1]
    path = tmp_path / "bad.csv"
    for text, message in (
        ("pair_id,label\nnobody,same\n", "labels 1 pairs that .* does not have, such as 'nobody'"),
        (f"pair_id,label\n{ids[0]},maybe\n", "row 1: 'maybe' is no label"),
        (f"id,label\n{ids[0]},same\n", "no column 'pair_id'. It has: id, label"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            labelled_pairs(run.path, labels=path)
    path.write_bytes(b"pair_id,label\n\xff\xfe,same\n")
    with pytest.raises(ValueError, match="is no CSV file in UTF-8"):
        labelled_pairs(run.path, labels=path)
    path.write_text(f"pair_id,label\n{'x' * 200_000},same\n")
    with pytest.raises(ValueError, match="is no CSV file in UTF-8: field larger than"):
        labelled_pairs(run.path, labels=path)
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"is no Parquet file .*called \.csv"):
        labelled_pairs(run.path, labels=tmp_path / "bad.parquet")
    with pytest.raises(FileNotFoundError, match="no such file"):
        labelled_pairs(run.path, labels=tmp_path / "none.csv")
