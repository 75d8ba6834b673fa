"""Comparing methods on a benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dsd.evaluation.comparison import Comparison


def evaluate(
    out: str,
    model: str | None = None,
    benchmark: str | Mapping[str, Any] = "small_world",
    root: str | None = None,
    method: str | Sequence[Any] | Mapping[str, Any] | None = None,
    baselines: bool = True,
    metrics: str | Sequence[Any] | None = None,
    judges: str | Sequence[Any] | None = None,
    limit: int | None = None,
    images_per_prompt: int | None = None,
    runs: int | None = None,
    average: Literal["micro", "macro"] = "micro",
    rank_by: str | None = None,
    shown: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> str:
    """Compare methods on a benchmark: draw, measure, have rated, report.

    Stop it at any moment and call it again: nothing is drawn or rated twice. Writes `evaluation.html`,
    `evaluation.md`, `evaluation.json`, `pictures.csv`, and all pictures below `methods`.

    Args:
        out: the folder for the results.
        model: the folder of a student; short for the method "student", and "untrained" among the baselines.
        benchmark: "dreambench++", "dreambooth", "folder" (one of your own), "small_world", or a spec.
        root: the benchmark's folder.
        method: who is compared: a name or a spec; may be given several times. A spec's `label` is what it is
            called.
        baselines: compare with what the benchmark offers too: the reference copied and, for the small world,
            the teacher prompted with text alone, the untrained student and the true pictures.
        metrics: a metric's name or spec; may be given several times.
        judges: a judge's name or spec; may be given several times.
        limit: so many cases, chosen by chance; all by default.
        images_per_prompt: pictures of each case; by default as many as the benchmark's authors draw.
        runs: how often each judge rates a picture; by default as often as the judge says.
        average: what counts alike: every picture (micro), or every category (macro).
        rank_by: the column to rank by; by default the product of preservation and following.
        shown: how many of the best and of the worst cases of each method the page shows.
        seed: of the noise.
        progress: show progress bars on stderr.

    Raises:
        FileNotFoundError: if there is no such model, folder or file.
        OSError: if `out` cannot be written.
        ValueError: if a number is out of range, or `out` holds the results of something else.
    """
    from dsd.data.atomic import make_folder

    make_folder(Path(out).expanduser())

    from dsd.evaluation.comparison import compare, write_comparison
    from dsd.evaluation.comparison.notes import notes
    from dsd.quiet import quiet_loading

    asked = _specs(method)
    if model is not None:
        asked.insert(0, {"name": "student", "model": model})
    if not asked:
        raise ValueError("Say who is compared: --method, or --model for a student.")
    if baselines:
        asked += _baselines(benchmark, model)
    wanted = {"name": benchmark} if isinstance(benchmark, str) else dict(benchmark)
    with quiet_loading():
        result = compare(
            wanted if root is None else {**wanted, "root": root},
            _labelled(asked),
            out,
            metrics=_specs(metrics),
            judges=_specs(judges),
            limit=limit,
            images_per_prompt=images_per_prompt,
            runs=runs,
            average=average,
            rank_by=rank_by,
            seed=seed,
            progress=progress,
        )
        page = write_comparison(result, out, shown)
    if result.stopped:
        raise RuntimeError(f"{result.stopped} What there is stands in {page}.")
    return "\n".join([_table(result), *(f"! {note}" for note in notes(result)), str(page)])


def _specs(given: Any) -> list[Any]:
    """One spec or several; a text may be one too, as an option that is given several times has it."""
    if given is None:
        return []
    if isinstance(given, str | Mapping):
        given = [given]
    return [_spec(item) for item in given]


def _spec(item: Any) -> Any:
    if not isinstance(item, str) or not item.lstrip().startswith("{"):
        return item
    import yaml

    try:
        return yaml.safe_load(item)
    except yaml.YAMLError as error:
        raise ValueError(f"{item!r} is no spec: {' '.join(str(error).split())}.") from error


def _baselines(benchmark: Any, model: str | None) -> list[Any]:
    name = benchmark if isinstance(benchmark, str) else benchmark.get("name")
    if name != "small_world":
        return ["copy"]
    untrained = [{"name": "untrained", "model": model}] if model is not None else []
    return ["text_only", "copy", *untrained, "ceiling"]


def _labelled(specs: Sequence[Any]) -> dict[str, Any]:
    """By their labels; the same one twice is the user's to mend."""
    found: dict[str, Any] = {}
    for spec in specs:
        given = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        label = str(given.pop("label", str(given.get("name")).rpartition(":")[2]))
        if found.get(label, given) != given:
            raise ValueError(f"Two methods are called {label!r}. Give each a `label` of its own in its spec.")
        found[label] = given
    return found


def _table(result: "Comparison") -> str:
    names = [column.name for column in result.columns]
    width = max(12, *(len(method.label) + 1 for method in result.methods))
    lines = [f"{'':{width}}" + "".join(f"{name:>18}" for name in names)]
    for method in result.methods:
        values = [method.figures[name].value for name in names]
        lines.append(
            f"{method.label:{width}}" + "".join(f"{'-' if x is None else f'{x:.3f}':>18}" for x in values)
        )
    return "\n".join(lines)
