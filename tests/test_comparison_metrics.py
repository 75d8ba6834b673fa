"""Metrics in the comparison: what they are given, how often, and what their names say."""

from collections import Counter

import numpy as np
import pytest

from dsd.evaluation.comparison.measures import MetricMeasure, Shown
from dsd.evaluation.methods.base import jobs_of
from tests.comparison_parts import NEAR, Nearness, Shades, shade, shade_of


def test_a_picture_goes_through_a_network_once(tmp_path):
    seen = Counter()

    def extractor(images):
        seen.update(shade_of(image) for image in images)
        return np.array([[1.0, shade_of(image)] for image in images])

    measure = MetricMeasure({"name": "image_similarity", "extractor": extractor})
    jobs = jobs_of(Shades().load())
    shown = [Shown(job=job, image=shade(100 + number)) for number, job in enumerate(jobs)]
    found = measure.measure(shown[:9]) + measure.measure(shown[9:])
    assert set(seen.values()) == {1}
    a = np.array([1.0, 107])
    refs = [np.array([1.0, x]) for x in (40, 45)]
    expected = np.mean([a @ r / np.linalg.norm(a) / np.linalg.norm(r) for r in refs])
    assert found[7]["image_similarity"] == pytest.approx(expected, abs=1e-6)


class Sets(Nearness):
    """Takes sets of references, and the nearest of each."""

    def update(self, generated, reference, reference_index=None):
        for image, some in zip(generated, reference, strict=True):
            near = [1 - abs(shade_of(image) - shade_of(x)) / 255 for x in some]
            self.total, self.count = self.total + max(near), self.count + 1


class Pasted(Nearness):
    """How much nearer to the reference than to the truth."""

    def update(self, generated, truth, reference):
        for image, t, r in zip(generated, truth, reference, strict=True):
            self.total += abs(shade_of(image) - shade_of(t)) - abs(shade_of(image) - shade_of(r))
            self.count += 1


def test_metrics_get_the_references_as_they_take_them(tmp_path):
    (job,) = jobs_of(Shades(1, 1).load())
    shown = [Shown(job=job, image=shade(6))]
    name = "tests.test_comparison_metrics:"
    assert MetricMeasure(name + "Sets").measure(shown) == [{"Sets": pytest.approx(1 - 1 / 255)}]
    assert MetricMeasure(name + "Pasted").measure(shown) == [
        {"Pasted": 5 - 6}
    ]  # the truth is 1, the reference 0
    without = type(job)(case=type(job.case)(**{**vars(job.case), "truth": None}))
    assert MetricMeasure(name + "Pasted").measure([Shown(job=without, image=shade(6))]) == [{"Pasted": 1 - 6}]
    alone = type(job)(case=type(job.case)(**{**vars(without.case), "pictures": without.case.pictures[:1]}))
    assert MetricMeasure(name + "Pasted").measure([Shown(job=alone, image=shade(6))]) == [{"Pasted": None}]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("image_similarity", "preservation"),
        ("text_image_similarity", "following"),
        ("clip_image_similarity", "preservation"),
        ("near_copy_rate", "copying"),
        ("nearness", "other"),
    ],
)
def test_roles_follow_from_names(name, role):
    assert MetricMeasure({"name": NEAR, "label": name}).columns[0].role == role


def test_a_role_can_be_said():
    assert MetricMeasure({"name": NEAR, "role": "following"}).columns[0].role == "following"
    with pytest.raises(ValueError, match="Unknown `role` 'best' of a metric"):
        MetricMeasure({"name": NEAR, "role": "best"})
