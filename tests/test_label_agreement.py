"""How well people agree, counted by hand beside it; the tables that are written and shown of it."""

import csv
from fractions import Fraction

import pyarrow.parquet as pq
import pytest

from dsd import labels
from dsd.cli import main
from dsd.labels import Label, LabelFile
from tests.cheap_world import make_run

WHEN = "2025-03-01T12:30:00+00:00"


@pytest.fixture
def empty(tmp_path):
    """A run without labels."""
    return make_run(tmp_path / "run", count=2, curator=None)  # 24 pairs


def said(**people):
    """Labels of pairs 0, 1, 2, ... from one letter a pair: s, d, u, or a blank for none."""
    words = {name[0]: name for name in labels.LABELS}
    return [
        Label(pair_id=f"{i:03d}", label=words[letter], person=person, time=WHEN)
        for person, letters in people.items()
        for i, letter in enumerate(letters)
        if letter != " "
    ]


def cohen_by_hand(a, b):
    """Cohen (1960): observed and expected agreement as exact fractions."""
    n = len(a)
    observed = Fraction(sum(x == y for x, y in zip(a, b, strict=True)), n)
    expected = sum(Fraction(a.count(c) * b.count(c), n * n) for c in "sdu")
    return float((observed - expected) / (1 - expected))


def fleiss_by_hand(*rows):
    """Fleiss (1971), his equations 1 to 7."""
    n, raters = len(rows[0]), len(rows)
    table = [[column.count(c) for c in "sdu"] for column in map(list, zip(*rows, strict=True))]
    p = [Fraction(sum(row[j] for row in table), n * raters) for j in range(3)]
    agreement = [Fraction(sum(x * x for x in row) - raters, raters * (raters - 1)) for row in table]
    mean, chance = sum(agreement) / n, sum(x * x for x in p)
    return float(mean), float((mean - chance) / (1 - chance))


def test_two_people_agree_as_counted_by_hand():
    a, b = "ssssddddus", "sssdddduus"
    found = labels.agreement(said(ann=a, bob=b))
    # 8 of 10 alike; by chance (5*4 + 4*4 + 1*2) / 100 = 0.38; (0.80 - 0.38) / 0.62
    assert found.people == ("ann", "bob")
    assert (found.num_pairs, found.share) == (10, pytest.approx(0.8))
    assert found.kappa == pytest.approx(0.42 / 0.62, abs=1e-6)
    assert found.kappa == pytest.approx(cohen_by_hand(a, b), abs=1e-6)


def test_three_people_agree_as_counted_by_hand():
    rows = "ssddsuds", "ssddsdds", "sdddsuss"
    found = labels.agreement(said(ann=rows[0], bob=rows[1], eve=rows[2]))
    share, kappa = fleiss_by_hand(*rows)
    assert found.share == pytest.approx(share, abs=1e-6)
    assert found.kappa == pytest.approx(kappa, abs=5e-5)  # torchmetrics adds 1e-5 to the denominator
    two = labels.agreement_by_two(said(ann=rows[0], bob=rows[1], eve=rows[2]))
    assert [x.people for x in two] == [("ann", "bob"), ("ann", "eve"), ("bob", "eve")]
    by_hand = [cohen_by_hand(x, y) for x, y in ((rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2]))]
    assert [x.kappa for x in two] == pytest.approx(by_hand, abs=1e-6)


def test_only_pairs_that_all_of_them_labelled_count():
    assert labels.agreement(said(ann="ssdd  ", bob=" sdsud")) == labels.agreement(
        said(ann=" sdd", bob=" sds")
    )
    none = labels.agreement(said(ann="ss  ", bob="  ss"))
    assert (none.num_pairs, none.share, none.kappa) == (0, None, None)


def test_kappa_is_not_defined_where_all_said_the_same_of_everything():
    assert labels.agreement(said(ann="sss", bob="sss")).kappa is None
    assert labels.agreement(said(ann="sss", bob="sss", eve="sss")).kappa is None
    assert labels.agreement(said(ann="sss", bob="sss")).share == 1.0


def test_agreement_needs_two_people():
    with pytest.raises(ValueError, match="two people or more; got ann"):
        labels.agreement(said(ann="sss"))


def test_the_majority_and_its_ties():
    found = labels.majority(said(ann="ssdsu", bob="sddus", eve="d d us"[0:2] + "s" + "ds"))
    #  pair 0: s s d, 1: s d ' ', 2: d d s, 3: s u d, 4: u s s
    assert list(found.values()) == ["same", "unsure", "different", "unsure", "same"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_are_exported_with_two_columns(empty, tmp_path, ending):
    ids = empty.pairs.ids()
    for person, words in {"ann": "same different", "bob": "same same", "eve": "unsure different"}.items():
        for pair_id, word in zip(ids, words.split(), strict=False):
            LabelFile(empty, person).add(pair_id, word)
    path = tmp_path / "new" / f"labels.{ending}"
    assert labels.export(empty, path) == 2
    if ending == "csv":
        rows = list(csv.DictReader(path.open()))
    else:
        rows = pq.read_table(path).to_pylist()
    assert rows == [
        {"pair_id": key, "label": {ids[0]: "same", ids[1]: "different"}[key]} for key in sorted(ids[:2])
    ]
    assert labels.export(empty, path, person="Bob") == 2
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        labels.export(empty, tmp_path / "labels.xlsx")
    with pytest.raises(ValueError, match="dora has not labelled"):
        labels.export(empty, path, person="dora")


# The command line


def test_the_report_of_the_command_line(empty, capsys):
    assert main(["label", str(empty.path), "--report"]) == 0
    assert "Nobody has labelled" in capsys.readouterr().out
    ids = empty.pairs.ids()
    for person, words in {"ann": "ssdd", "bob": "sddd", "eve": "ssdu"}.items():
        for pair_id, letter in zip(ids, words, strict=False):
            LabelFile(empty, person).add(pair_id, {x[0]: x for x in labels.LABELS}[letter], 2.0)
    assert main(["label", str(empty.path), "--report"]) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "ann 4 2 2 0 2.0" in lines
    assert "ann, bob 4 75.0% 0.50" in lines
    share, kappa = fleiss_by_hand("ssdd", "sddd", "ssdu")
    assert f"ann, bob, eve 4 {share:.1%} {kappa:.2f}" in lines


def test_mistakes_on_the_command_line_are_one_line(empty, capsys):
    for words, message in {
        ("--person", "../x"): "cannot be a person's name",
        ("--export", "x.txt"): ".csv or .parquet",
        ("--count", "0"): "at least 1",
        ("--curator", "none", "--count", "3"): "no verdicts of 'none'",
    }.items():
        assert main(["label", str(empty.path), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("dsd label: ")
        assert message in line
