"""What must hold of the metrics' formulas whatever the pictures are; and their errors."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from dsd import metrics
from dsd.metrics import functional as f
from tests.metrics.cases import NAN, noise, pictures
from tests.metrics.image_cases import GRID_NET

seeds = st.integers(0, 2**31)


# Means over groups


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_micro_is_macro_weighted_by_counts(seed):
    rng = np.random.default_rng(seed)
    values, groups = rng.normal(size=20), np.append([0, 1, 2], rng.integers(0, 3, 17))
    shares = np.bincount(groups).tolist()
    micro, macro = (
        f.grouped_mean(values, groups),
        f.grouped_mean(values, groups, average="macro", weights=shares),
    )
    assert micro["score"].item() == pytest.approx(macro["score"].item(), abs=1e-12)
    alone = [f.grouped_mean(values[groups == i])["score"].item() for i in range(3)]
    assert f.grouped_mean(values, groups, average="none")["score"].tolist() == pytest.approx(alone)


def test_dreambench_plus_plus_categories_come_out_under_both_rules():
    """IP-Adapter's row of the leaderboard: .593 over 150 pictures; the categories' plain mean is another."""
    categories = {"animal": 0.667, "human": 0.558, "object": 0.504, "style": 0.752}
    counts = {"animal": 45, "human": 20, "object": 65, "style": 20}
    found = {}
    for average, weights in (("micro", None), ("macro", None), ("macro", counts)):
        metric = metrics.MeanScore(groups=list(categories), average=average, weights=weights)
        for name, mean in categories.items():
            metric.update([mean] * counts[name], groups=name)
        found[average, weights is None] = metric.compute()["score"].item()
    assert found["micro", True] == pytest.approx(0.593, abs=0.001)
    assert found["macro", False] == pytest.approx(found["micro", True], abs=1e-6)
    assert found["macro", True] == pytest.approx(0.620, abs=0.001)


def test_a_group_without_a_value_is_told_by_name():
    metric = metrics.MeanScore(groups=["animal", "human"], average="macro")
    metric.update([1.0], groups="animal")
    with pytest.raises(ValueError, match="The group 'human' has no value"):
        metric.compute()
    free = metrics.MeanScore(groups=["animal", "human"], average="macro", weights={"animal": 2.0})
    free.update([0.5], groups=["animal"])
    found = free.compute()
    assert found["score"] == 0.5
    assert found["score_by_group"].isnan().tolist() == [False, True]
    assert found["n_by_group"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": ["a", "a"]}, "each once"),
        ({"groups": []}, "one or more groups"),
        ({"average": "mean"}, "Unknown `average` 'mean'. Allowed: micro, macro, none"),
        ({"weights": {"all": 1.0}}, "average='macro', not 'micro'"),
        ({"groups": ["a"], "average": "macro", "weights": {"b": 1.0}}, "a weight of 'b', which is no group"),
        ({"groups": ["a"], "average": "macro", "weights": {"a": -1.0}}, "a weight of 0 or more, not all 0"),
        ({"groups": ["a"], "average": "macro", "weights": {"a": 0.0}}, "a weight of 0 or more, not all 0"),
        ({"nan_policy": "ignore"}, "Unknown `nan_policy` 'ignore'"),
    ],
)
def test_rules_that_there_are_not(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.MeanScore(**arguments)


def test_groups_and_values_that_do_not_fit():
    metric = metrics.MeanScore(groups=["a", "b"])
    for values, groups, message in [
        ([1.0], None, "Say which group each item is of: a, b"),
        ([1.0], "c", "no group 'c'. Known: a, b"),
        ([1.0, 2.0], ["a"], "1 groups for 2 items"),
        ([1.0, float("inf")], "a", "Value 1 is infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric.update(values, groups)
    assert metric.counts.sum() == 0
    with pytest.raises(ValueError, match="There is no group 2; there are 2"):
        f.grouped.group_sums([1.0], [2], num_groups=2)


# Similarity


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_similarity_is_symmetric_and_of_sets_between_its_ends(seed):
    g, r = noise(seed), noise(seed + 9)
    torch.testing.assert_close(f.reference_cosines(g, r), f.reference_cosines(5 * r, g))
    sets = [torch.stack([r[i], g[i], r[i] + g[i]]) for i in range(4)]
    mean, best = f.reference_cosines(g, sets), f.reference_cosines(g, sets, "max")
    torch.testing.assert_close(best, torch.ones_like(best))
    by_hand = [torch.cosine_similarity(g[i][None], sets[i]).mean() for i in range(4)]
    torch.testing.assert_close(mean, torch.stack(by_hand))


def test_similarity_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="4 generated pictures and 3 references"):
        f.image_similarity(noise(0), noise(1)[:3])
    with pytest.raises(ValueError, match="A set of references is empty"):
        f.reference_cosines(noise(0, 1), [torch.zeros(0, 5)])
    with pytest.raises(ValueError, match=r"Unknown `reduction` 'median'. Allowed: mean, max"):
        metrics.ImageSimilarity(reduction="median")
    assert (
        f.image_similarity(torch.tensor([[0.0, 0.0]]), noise(0, 1, 2).float(), nan_policy="zero")["missing"]
        == 1
    )
    with pytest.raises(ValueError, match="was added that counts"):
        f.image_similarity(torch.zeros(0, 5), torch.zeros(0, 5))


# Words


@pytest.mark.parametrize(
    ("prompt", "subject", "left"),
    [
        ("A backpack on the beach", "backpack", "on the beach"),
        ("a photo of the  Red Cartoon, in snow", "red cartoon", "a photo of, in snow"),
        ("dogs and a dog's bone", "dog", "dogs and 's bone"),
        ("this t-shirt (new) hangs", "t-shirt (new)", "hangs"),
        ("no such thing", "cat", "no such thing"),
    ],
)
def test_the_subject_is_taken_out_of_a_prompt(prompt, subject, left):
    assert f.strip_subject(prompt, subject) == left


def test_words_that_do_not_fit():
    with pytest.raises(ValueError, match="Nothing is left of the prompt 'a cat!' without its subject 'cat'"):
        f.strip_subject("a cat!", "cat")
    with pytest.raises(ValueError, match="name is empty"):
        f.strip_subject("a cat", " ")
    metric = metrics.TextImageSimilarity(GRID_NET)
    with pytest.raises(ValueError, match="2 generated pictures, 1 prompts; give one of each"):
        metric.update(pictures(2), ["one"])
    with pytest.raises(ValueError, match="2 generated pictures, 2 prompts and 1 subjects"):
        metric.update(pictures(2), ["one", "two"], subjects=["one"])
    with pytest.raises(TypeError, match=r"gives no texts. Take a model that does, such as CLIP"):
        metrics.TextImageSimilarity("mini").update(pictures(1), ["one"])
    with pytest.raises(ValueError, match="Allowed: truncate, error"):
        metrics.TextImageSimilarity(GRID_NET, long_prompts="cut")


# Identity


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(["skip", "zero"]))
def test_auroc_is_the_share_of_pairs_in_order(seed, policy):
    rng = np.random.default_rng(seed)
    scores, same = rng.integers(-3, 4, 20) / 4, np.append([True, False], rng.random(18) < 0.5)
    scores[rng.random(20) < 0.1] = NAN
    kept = ~np.isnan(scores) if policy == "skip" else np.ones(20, dtype=bool)
    values = np.nan_to_num(scores)
    positive, negative = values[kept & same], values[kept & ~same]
    if not len(positive) or not len(negative):
        return
    wanted = np.mean([(p > q) + (p == q) / 2 for p in positive for q in negative])
    found = f.identity_auroc(scores, same, nan_policy=policy)
    assert found["auroc"].item() == pytest.approx(wanted, abs=1e-6)
    assert found["auroc_same_class"].isnan()
    assert (
        f.identity_auroc(np.exp(scores) * 3, same, nan_policy="skip")["auroc"].item()
        == pytest.approx(f.identity_auroc(scores, same, nan_policy="skip")["auroc"].item(), abs=1e-6)
        or policy == "zero"
    )


def test_margins_of_missing_trials_by_the_policy():
    positive, negative = [0.9, NAN, 0.8, 0.5], [0.1, 0.2, 0.3, 0.5]
    kept = f.identity_margin(positive, negative, [0, 0, 1, 2], nan_policy="skip")
    lost = f.identity_margin(positive, negative, [0, 0, 1, 2], nan_policy="zero")
    assert kept["ssr"].item() == pytest.approx(2 / 3)  # a margin of 0 is not won
    assert lost["ssr"].item() == pytest.approx(1 / 3)
    assert (kept["pa"].item(), lost["pa"].item()) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    assert kept["margin"].item() == pytest.approx(1.3 / 3)
    assert (int(kept["n"]), int(lost["n"]), int(kept["missing"])) == (3, 4, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f.identity_margin([1.0], [1.0, 2.0]), "1 positive and 2 negative"),
        (lambda: f.identity_margin([NAN], [1.0]), "1 of 1 trials are missing, the first is number 0"),
        (lambda: f.identity_margin([NAN], [1.0], nan_policy="skip"), "No trial was added that counts"),
        (lambda: f.identity_margin([1.0], [1.0], [0, 1]), "2 samples for 1 trials"),
        (lambda: f.identity_auroc([1.0], [True, False]), "1 scores, 2 and 2 flags"),
        (lambda: f.identity_auroc([1.0, 0.5], [True, True]), "2 pairs of one subject and 0 of two"),
        (lambda: f.identity_auroc([1.0, float("inf")], [True, False]), "Score 1 is infinite"),
        (lambda: metrics.IdentityAUROC(nan_policy="no"), "Unknown `nan_policy` 'no'"),
        (lambda: metrics.IdentityMargin().update([NAN], [0.0], ["a"]), "1 of 1 trials are missing"),
        (lambda: metrics.IdentityAUROC().update([NAN], [True]), "1 of 1 scores are missing"),
        (lambda: metrics.IdentityMargin().update([0.0], [0.0], ["a", "b"]), "of 2 samples"),
        (lambda: metrics.IdentityAUROC().update([0.0], [True, True]), "1 scores, 2 and 2 flags"),
    ],
)
def test_identity_refuses_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_samples_are_the_same_by_name_or_number_in_every_process():
    by_name, by_number = metrics.IdentityMargin(), metrics.IdentityMargin()
    by_name.update([1.0, 0.0], [0.0, 1.0], samples=["7", "7"])
    by_number.update([1.0, 0.0], [0.0, 1.0], samples=torch.tensor([7, 7]))
    assert by_name.compute()["samples"] == by_number.compute()["samples"] == 1
    by_name.update([1.0], [0.0], samples=[7])
    assert by_name.compute()["samples"] == 1


# Diversity


def test_a_distance_of_strangers_is_asked_for_every_pair_of_a_prompt():
    """The structural similarity of torchmetrics, which is asked for pictures of one size at a time."""
    asked = []

    def tensor(images):
        return torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1) / 255 for x in images])

    def unlike(one, other):
        assert {image.mode for image in [*one, *other]} == {"RGB"}
        asked.append(len(one))
        return 1 - structural_similarity_index_measure(
            tensor(one), tensor(other), data_range=1.0, reduction="none"
        )

    noise = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    grey = [Image.fromarray(x).convert("L") for x in noise[3:]]
    sets = [[Image.fromarray(x) for x in noise[:3]], [*grey, None]]
    metric = metrics.IntraPromptDiversity(distance=unlike, groups=["a", "b"], average="none")
    metric.update(sets[:1], "a")
    metric.update(sets[1:], "b")
    wanted = []
    for some in sets:
        rgb = [image.convert("RGB") for image in some if image is not None]
        wanted.append(np.mean([unlike([a], [b]).item() for a, b in itertools.combinations(rgb, 2)]))
    found = metric.compute()
    assert asked[:2] == [3, 1]
    assert found["score_by_group"].tolist() == pytest.approx(wanted, abs=1e-6)
    assert metric.extractor is not None
    merged = metrics.IntraPromptDiversity(distance=unlike, groups=["a", "b"], average="none")
    merged.merge_state(metric)
    assert merged.compute()["score_by_group"].tolist() == found["score_by_group"].tolist()


def test_a_distance_that_cannot_measure_is_said():
    for wrong, message in (
        (lambda a, b: [float("nan")] * len(a), "1 of 1 values are missing"),
        (lambda a, b: 0.5, "gave 1 numbers for 3 pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.IntraPromptDiversity(distance=wrong).update([[Image.new("RGB", (4, 4))] * 3])


def test_another_distance_and_prompts_with_too_few_pictures():
    def apart(one, other):
        return [abs(a.width - b.width) for a, b in zip(one, other, strict=True)]

    sizes = [[4, 6, 9], [5]]
    sets = [[Image.new("RGB", (width, 4)) for width in some] for some in sizes]
    metric = metrics.IntraPromptDiversity(distance=apart, nan_policy="skip")
    metric.update(sets)
    found = metric.compute()
    assert found["score"].item() == pytest.approx((2 + 5 + 3) / 3)
    assert (int(found["n"]), int(found["missing"])) == (1, 1)
    with pytest.raises(ValueError, match="1 of 2 values are missing"):
        metrics.IntraPromptDiversity(distance=apart).update(sets)
    with pytest.raises(ValueError, match="gave 1 numbers for 3 pairs"):
        metrics.IntraPromptDiversity(distance=lambda a, b: [1.0]).update(sets[:1])
    with pytest.raises(ValueError, match=r"\(n, k, 3, h, w\); got \(2, 3, 4, 4\)"):
        metrics.IntraPromptDiversity(GRID_NET).update(torch.zeros(2, 3, 4, 4))
    same = metrics.IntraPromptDiversity(GRID_NET)
    same.update([pictures(1) * 3])
    assert same.compute()["score"].item() == pytest.approx(0, abs=1e-6)
