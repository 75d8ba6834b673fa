"""Labels of one's own, and how well people agree."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from dsd.labels import Agreement, Label


def label(
    run: str,
    person: str | None = None,
    port: int | None = None,
    count: int | None = None,
    seed: int = 0,
    policy: str | Mapping[str, Any] | None = None,
    curator: str | None = None,
    report: bool = False,
    export: str | None = None,
) -> str:
    """Label pairs on a page of this machine: do both pictures show the same subject?

    Serves the page on 127.0.0.1 until Ctrl-C. Every label is saved at once, in `labels/PERSON.jsonl` of the
    run; called again, the command goes on where this person stopped. Several people can work at once.

    Args:
        run: the folder of a run that has pairs.
        person: who labels; the login name by default. With `export`: whose labels to write.
        port: of the page; by default the first free one from 8765 on, and 0 for any.
        count: how many pairs to show; all by default.
        seed: of the choice of pairs, which is the same for everybody, and of each person's order.
        policy: show only pairs that it accepts: the name of a curator, or a policy.
        curator: show the `count` pairs that this curator was least sure of.
        report: show no page, but how well people agree.
        export: show no page, but write what most people say into this file, .csv or .parquet, with the
            columns pair_id and label.

    Raises:
        FileNotFoundError: if the run has no pairs.
        LookupError: if there are no verdicts of a curator that is named.
        OSError: if the port is taken, or something could not be written.
        ValueError: if a name, a number or the export's ending is not allowed, or there is nothing to show.
    """
    from dsd.data.store import Run

    folder = Run(run)
    said = []
    if report:
        said.append(_report(folder))
    if export is not None:
        from dsd.labels import export as write

        rows = write(folder, export, person)
        said.append(f"{export}: {rows} labels")
    if said:
        return "\n".join(said)

    from dsd.labels import choose_pairs, serve
    from dsd.labels.session import Session

    ids = choose_pairs(folder, count=count, seed=seed, policy=policy, curator=curator)
    session = Session(folder, _login() if person is None else person, ids, seed)
    serve(session, port)
    state = session.state()
    counts = ", ".join(f"{name} {number}" for name, number in state["counts"].items())
    return f"{state['person']}: {state['done']} of {state['total']} pairs labelled ({counts})"


def _login() -> str:
    import getpass

    from dsd.labels.store import person_name

    try:
        return person_name(getpass.getuser())
    except (
        OSError,
        KeyError,
        ValueError,
    ) as error:  # KeyError: before Python 3.13, for a user without a name
        raise ValueError("The login name cannot name who labels. Give a name with --person.") from error


def _report(run: Any) -> str:
    """The tables of a report, as the terminal shows them."""
    from rich.console import Console

    from dsd.labels import agreement, agreement_by_two, read

    labels = read(run)
    if not labels:
        return f"Nobody has labelled a pair of {run.path} yet. Begin with: dsd label {run.path}"
    found = agreement_by_two(labels)
    if len({x.person for x in labels}) > 2:
        found.append(agreement(labels))
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(_people(labels))
        if found:
            console.print(_agreements(found))
        else:
            console.print(
                "Agreement needs a second person: dsd label RUN --person NAME, with the same --count."
            )
    return capture.get().rstrip()


def _people(labels: "Sequence[Label]") -> "Table":
    from rich import box
    from rich.table import Table

    from dsd.labels import LABELS

    table = Table(box=box.SIMPLE, title="Labels")
    for number, name in enumerate(("person", "pairs", *LABELS, "seconds a pair")):
        table.add_column(name, justify="right" if number else "left")
    for person in sorted({x.person for x in labels}):
        own = [x for x in labels if x.person == person]
        seconds = [x.seconds for x in own if x.seconds is not None]
        counts = [str(sum(x.label == name for x in own)) for name in LABELS]
        table.add_row(person, str(len(own)), *counts, f"{median(seconds):.1f}" if seconds else "\N{EN DASH}")
    return table


def _agreements(found: "Sequence[Agreement]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title="Agreement", caption="kappa: Cohen's of two people, Fleiss' of more")
    for number, name in enumerate(("people", "pairs of all", "same answer", "kappa")):
        table.add_column(name, justify="right" if number else "left")
    for entry in found:
        share = "\N{EN DASH}" if entry.share is None else f"{entry.share:.1%}"
        kappa = "\N{EN DASH}" if entry.kappa is None else f"{entry.kappa:.2f}"
        table.add_row(", ".join(entry.people), str(entry.num_pairs), share, kappa)
    return table
