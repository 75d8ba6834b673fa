"""The page of a run: each stage with its count, rate, yield, cost, time left and last failures."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from dsd.data.rows import Failure
from dsd.llm.ledger import dollars

REFRESH_S = 5
_MAX_TEXT = 400


@dataclass(frozen=True, kw_only=True)
class StageState:
    """A stage that runs, or ran, in this process.

    Attributes:
        stage: its name.
        state: "running", "finished" or "stopped: ...".
        done: rows of the earlier stage that are done, failed ones among them.
        total: how many there are.
        unit: what is counted.
        rate: of them in a second, lately or, at the end, in the mean; None if unknown.
        seconds: since the call began.
        left_s: seconds left at that rate; None if unknown.
        told: what else there is to tell, by name: yield, tokens, cost.
        num_failed: how many failed in this call.
        failures: the last of them.
        begun_at: when the call began, ISO 8601.
    """

    stage: str
    state: str
    done: int
    total: int
    unit: str = "rows"
    rate: float | None = None
    seconds: float = 0.0
    left_s: float | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    num_failed: int = 0
    failures: Sequence[Failure] = ()
    begun_at: str = ""


def page(
    name: str,
    others: Mapping[str, Mapping[str, Any]],
    live: StageState,
    written_at: str,
    failures: Mapping[str, Sequence[Failure]] | None = None,
) -> str:
    """A whole HTML page that needs nothing else, and refreshes itself while the stage runs.

    Args:
        name: the run's.
        others: what the manifests of the other stages say, by stage.
        live: the stage that runs.
        written_at: now, ISO 8601 with time zone.
        failures: the last ones of the other stages, by stage.
    """
    shown = {live.stage: live.failures, **(failures or {})}
    running = live.state == "running"
    rows = [_row(_recorded(stage, told)) for stage, told in others.items()]
    rows.append(_live_row(live))
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_S}">' if running else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{refresh}
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src
'sha256-{_SCRIPT_HASH}'">
<title>{_text(live.stage)} {_share(live.done, live.total)} - {_text(name)}</title>
<style>{_STYLE}</style></head><body>
<h1>{_text(name)}</h1>
<p>{_text(live.stage)} {_text(live.state)}. Written <time id="written"
datetime="{_text(written_at)}">{_text(written_at)}</time><span id="age"></span>.</p>
<div class="wide"><table>
<thead><tr><th>Stage<th>Done<th><th>Rate<th>Time<th>Left<th>Yield<th>Cost<th>Failed<th>State</tr></thead>
<tbody>
{"".join(rows)}
</tbody></table></div>
{"".join(_failures(stage, found) for stage, found in shown.items() if found)}
<script>{_SCRIPT}</script>
</body></html>
"""


@dataclass(frozen=True, kw_only=True)
class _Cells:
    stage: str
    done: str
    bar: str
    rate: str
    seconds: str
    left: str
    share: str
    cost: str
    failed: str
    state: str
    live: bool = False


def _recorded(stage: str, told: Mapping[str, Any]) -> _Cells:
    """A stage by its manifest."""
    counts, rows, seconds = told.get("counts", {}), told.get("rows", 0), told.get("seconds", 0.0)
    share, cost = counts.get("yield"), counts.get("cost_usd")
    return _Cells(
        stage=stage,
        done=f"{rows:,}",
        bar="",
        rate=_rate(rows / seconds if seconds and rows else None, "rows"),
        seconds=_time(seconds),
        left="",
        share="" if share is None else f"{share:.0%}",
        cost="" if cost is None else dollars(cost),
        failed=f"{counts['failed']:,}" if counts.get("failed") else "",
        state="complete" if told.get("complete") else "not complete",
    )


def _live_row(live: StageState) -> str:
    told = dict(live.told)
    cells = _Cells(
        stage=live.stage,
        done=f"{live.done:,} of {live.total:,}",
        bar=f'<progress max="{max(1, live.total)}" value="{live.done}"></progress> '
        f"{_share(live.done, live.total)}",
        rate=_rate(live.rate, live.unit),
        seconds=_time(live.seconds),
        left="" if live.left_s is None else _time(live.left_s),
        share=told.pop("yield", ""),
        cost=told.pop("cost", ""),
        failed=told.pop("failed", f"{live.num_failed:,}" if live.num_failed else ""),
        state=live.state.partition(":")[0],
        live=True,
    )
    rest = ", ".join(f"{name} {value}" for name, value in told.items())
    return _row(cells) + (f'<tr class="rest"><td colspan="10">{_text(rest)}</td></tr>' if rest else "")


def _row(cells: _Cells) -> str:
    values = [vars(cells)[name] for name in ("rate", "seconds", "left", "share", "cost", "failed", "state")]
    return (
        f'<tr class="{"live" if cells.live else ""}"><th scope="row">{_text(cells.stage)}</th>'
        f"<td>{_text(cells.done)}</td><td>{cells.bar}</td>"  # the bar is ours, of numbers alone
        + "".join(f"<td>{_text(value)}</td>" for value in values)
        + "</tr>\n"
    )


def _failures(stage: str, failures: Sequence[Failure]) -> str:
    items = [
        f"<li><code>{_text(failure.source)}</code> {_text(failure.reason)}</li>\n"
        for failure in reversed(failures)
    ]
    return f"<h2>Last failures of {_text(stage)}</h2>\n<ul>\n{''.join(items)}</ul>\n"


def _text(value: str) -> str:
    text = str(value)
    return escape(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")


def _share(done: int, total: int) -> str:
    return f"{100 * done // total}%" if total else "100%"


def _rate(rate: float | None, unit: str) -> str:
    if not rate:
        return ""
    for times, name in ((1, "s"), (60, "min"), (3600, "h")):
        if rate * times >= 1 or name == "h":
            return (
                f"{rate * times:,.3g} {unit}/{name}"
                if rate * times < 1000
                else f"{rate * times:,.0f} {unit}/{name}"
            )
    return ""


def _time(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; --live: #2a6f5e; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 500; }
tbody th { font-weight: 500; } tr.live th { color: var(--live); font-weight: 700; }
tr.rest td { color: var(--quiet); }
progress { width: 6rem; accent-color: var(--live); }
code { color: var(--quiet); } li { overflow-wrap: anywhere; }
.old { color: #b3261e; font-weight: 700; }
"""
_SCRIPT = """
const written = document.getElementById('written'), age = document.getElementById('age');
const live = document.querySelector('meta[http-equiv=refresh]') !== null;
function show() {
  const s = Math.max(0, Math.round((Date.now() - Date.parse(written.dateTime)) / 1000));
  age.textContent = live && s > 60 ? ', ' + s + ' s ago: the process may have ended' : '';
  age.className = live && s > 60 ? 'old' : '';
}
show(); setInterval(show, 1000);
"""
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
