import itertools
import json
import random
import re

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from dsd import prompts
from dsd.grids import Layout
from dsd.prompts import FileWriter, TemplateWriter, prompt_seed

VOCABULARY = {
    "subjects": ["plush owl", "clay robot", "paper boat"],
    "scenes": [f"in place {i}" for i in range(9)],
    "template": "{count} pictures ({rows} by {columns}, {layout}) of one {subject}. {scenes}",
    "panel": "the {subject}, {scene}",
    "kind": "object",
}
ROWS = [
    {
        "text": "a grid of an owl",
        "subject": "owl",
        "panels": ["an owl at sea", "an owl in snow"],
        "layout": "1x2",
    },
    {"text": "a grid of a dog", "kind": "object"},
    {"text": "ein Gitter mit Bär"},
]


def write_rows(path, rows):
    if path.suffix == ".parquet":
        columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    else:
        path.write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump(VOCABULARY), encoding="utf-8")
    return path


@pytest.fixture(params=["small world", "vocabulary", "file"])
def writer(request, tmp_path, vocabulary):
    if request.param == "small world":
        return TemplateWriter()
    if request.param == "vocabulary":
        return TemplateWriter(vocabulary=str(vocabulary))
    return FileWriter(write_rows(tmp_path / "p.jsonl", [{"text": f"grid {i}"} for i in range(40)]))


def test_writing_can_stop_and_go_on_anywhere(writer):
    whole = list(writer.write(40, seed=3))
    assert len({prompt.id for prompt in whole}) == len(whole) == 40
    parts = [writer.write(stop, seed=3, start=start) for start, stop in ((0, 7), (7, 8), (8, 8), (8, 40))]
    assert list(itertools.chain(*parts)) == whole
    assert next(writer.write(40, seed=4)).id != whole[0].id


def test_writers_describe_every_panel_and_name_the_subject():
    for layout in ("2x2", "1x2"):
        for prompt in TemplateWriter(layout=layout).write(30, seed=0):
            assert len(prompt.panels) == len(set(prompt.panels)) == Layout.parse(prompt.layout).num_panels
            assert prompt.layout == layout
            assert all(prompt.subject in text for text in (prompt.text, *prompt.panels))
            assert prompt.writer == "template"


def test_the_small_worlds_prompts_come_from_their_own_seed():
    from dsd.mini.world import write_grid_prompt

    for prompt in TemplateWriter().write(5, seed=8):
        fields = write_grid_prompt(random.Random(prompt.seed))
        assert (prompt.text, prompt.panels) == (fields["text"], fields["panels"])


def test_prompt_seeds_differ_and_fit_into_a_column():
    seeds = [prompt_seed(seed, index) for seed in range(30) for index in range(300)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert prompt_seed(1, 11) != prompt_seed(11, 1)
    assert prompt_seed(0, 0) == 6213027144842677344


def test_a_vocabulary_of_ones_own(vocabulary):
    written = list(TemplateWriter(vocabulary=str(vocabulary), layout="2x3").write(200, seed=0))
    assert {prompt.subject for prompt in written} == set(VOCABULARY["subjects"])
    assert {prompt.kind for prompt in written} == {"object"}
    for prompt in written:
        start = f"6 pictures (2 by 3, 2x3) of one {prompt.subject}. panel 1: in place "
        assert prompt.text.startswith(start)
        places = re.findall(r"in place \d", prompt.text)
        assert len(set(places)) == 6
        assert prompt.panels == tuple(f"the {prompt.subject}, {place}" for place in places)


def test_a_vocabulary_may_be_json_and_needs_only_its_lists(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"subjects": ["owl"], "scenes": ["here", "there"]}))
    (prompt,) = TemplateWriter(vocabulary=str(path), layout="1x2").write(1, seed=0)
    assert prompt.text.startswith("A grid of 2 images, 1 rows and 2 columns, of the same owl: ")
    assert sorted(prompt.panels) == ["owl here", "owl there"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": []}, "at least 1 different `subjects`"),
        ({"subjects": "owl"}, "`subjects` must be a list"),
        ({"subjects": ["owl", " "]}, "none of them empty"),
        ({"scenes": ["here", "there", "here", "yonder"]}, "at least 4 different `scenes` are needed; got 3"),
        ({"scenes": None}, "`scenes` must be a list"),
        ({"template": "{subjekt}"}, "unknown place {subjekt}. Allowed: {subject}, {scenes}"),
        ({"template": "{subject"}, "`template` is not a template"),
        ({"panel": "{scenes}"}, "unknown place {scenes}. Allowed: {subject}, {scene}"),
        ({"subject": ["owl"]}, "unknown field 'subject'. Allowed: subjects"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path, change, message):
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump({**VOCABULARY, **change}))
    with pytest.raises(ValueError, match=re.escape(message)):
        TemplateWriter(vocabulary=str(path))


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", "a: [b"), ("a.json", "{"), ("a.yaml", "- a"), ("a.yaml", "")]
)
def test_a_damaged_vocabulary_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="vocabulary"):
        TemplateWriter(vocabulary=str(tmp_path / name))


def test_files_that_are_not_there():
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at nowhere\.yaml"):
        TemplateWriter(vocabulary="nowhere.yaml")
    with pytest.raises(FileNotFoundError, match=r"no file of prompts at nowhere\.jsonl"):
        FileWriter("nowhere.jsonl")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_gives_its_rows_in_order(tmp_path, suffix):
    writer = prompts.create({"name": "file", "path": write_rows(tmp_path / f"p{suffix}", ROWS)})
    assert len(writer) == 3
    owl, dog, bear = writer.write(3, seed=0)
    assert (owl.text, owl.subject, owl.layout, owl.kind) == ("a grid of an owl", "owl", "1x2", "character")
    assert owl.panels == ("an owl at sea", "an owl in snow")
    assert (dog.text, dog.subject, dog.layout, dog.kind, dog.panels) == (
        "a grid of a dog",
        "",
        "2x2",
        "object",
        (),
    )
    assert (bear.text, bear.writer) == ("ein Gitter mit Bär", "file")


def test_a_text_file_gives_a_prompt_a_line(tmp_path):
    writer = FileWriter(write_rows(tmp_path / "p.txt", ROWS), layout="3x3", kind="scene")
    assert [prompt.text for prompt in writer.write(3, seed=0)] == [row["text"] for row in ROWS]
    assert {(prompt.layout, prompt.kind) for prompt in writer.write(3, seed=0)} == {("3x3", "scene")}


def test_equal_rows_have_different_ids(tmp_path):
    one, two = FileWriter(write_rows(tmp_path / "p.txt", [ROWS[0]] * 2)).write(2, seed=0)
    assert one.text == two.text
    assert one.id != two.id


def test_asking_for_more_than_there_is_is_an_error(tmp_path):
    writer = FileWriter(write_rows(tmp_path / "p.txt", ROWS))
    with pytest.raises(ValueError, match="holds 3 prompts, but 4 were asked for"):
        list(writer.write(4, seed=0))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"text": "a"}\n{"text": ', "p.jsonl, row 2 is not JSON"),
        ("p.jsonl", b'{"text": "a"}\n\n{"text": "b"}', "row 2 is not JSON"),
        ("p.jsonl", b'{"text": "a"}\n{"text": " "}', "row 2: the prompt is empty"),
        ("p.jsonl", b'{"text": null}', "row 1: the prompt is empty (text = None)"),
        ("p.jsonl", b'{"prompt": "a", "x": 1}', "row 1: a prompt needs a `text`; got the columns prompt, x"),
        ("p.jsonl", b'["a"]', "row 1: a prompt needs a `text`; got ['a']"),
        ("p.jsonl", b'{"text": "a", "panels": "b"}', "`panels` must be a list of captions"),
        ("p.jsonl", b'{"text": "a", "panels": ["b"]}', "row 1: a 2x2 grid has 4 panels, but 1 are described"),
        ("p.jsonl", b'{"text": "a", "layout": "4"}', "row 1: '4' is not a layout"),
        ("p.jsonl", b"", "holds no prompts"),
        ("p.txt", b"one\n\ntwo", "row 2: the prompt is empty"),
        ("p.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("p.csv", b"text\na", "are read from .jsonl, .parquet and .txt files"),
        ("p.parquet", b"PAR1 no more", "is no Parquet file that can be read"),
        ("p.parquet", b"", "is no Parquet file that can be read"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        FileWriter(str(tmp_path / name))


def test_a_parquet_file_without_prompts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no column `text`; it has prompt"):
        FileWriter(write_rows(tmp_path / "p.parquet", [{"prompt": "a"}]))
    with pytest.raises(ValueError, match="row 2: the prompt is empty"):
        FileWriter(write_rows(tmp_path / "q.parquet", [{"text": "a"}, {"text": None}]))
