"""Pages: HTML that stands alone, and facts as JSON.

A page is a list of sections, each a template of this package with its data, so that reports of other kinds
put their own together. Everything is inside the page (styles, pictures, drawings), and whatever came from a
prompt or a model is escaped. No script runs but those of this package that a section asks for, which the page
names by their hashes.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, overload

import jinja2
from markupsafe import Markup
from PIL import Image

from dsd.data.atomic import make_folder, replace_file
from dsd.data.storage import Location, RemotePath, location
from dsd.llm.ledger import dollars

_PNG_SIDE_PX = 256
_RAW_CHARS = 8000
_NONE = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
        template: name of the template in this package, such as "grids" for `templates/grids.html.j2`.
        data: what the template reads.
        title: its heading; empty for none.
        text: a sentence or two below the heading.
        script: name of a script in this package that it needs, such as "search" for `templates/search.js`.
    """

    template: str
    data: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    text: str = ""
    script: str = ""


@overload
def write_page(
    path: str | PathLike[str], title: str, sections: Sequence[Section], subtitle: str = ""
) -> Path: ...
@overload
def write_page(
    path: RemotePath, title: str, sections: Sequence[Section], subtitle: str = ""
) -> RemotePath: ...
def write_page(
    path: str | PathLike[str] | RemotePath, title: str, sections: Sequence[Section], subtitle: str = ""
) -> Location:
    """Write a page, in one step.

    Args:
        path: the file; its folder is created.
        title: of the page.
        sections: from top to bottom.
        subtitle: a line below the title.

    Returns:
        the file.
    """
    file = location(path)
    make_folder(file.parent)
    replace_file(file, render_page(title, sections, subtitle).encode())
    return file


@overload
def write_json(path: str | PathLike[str], content: Mapping[str, Any]) -> Path: ...
@overload
def write_json(path: RemotePath, content: Mapping[str, Any]) -> RemotePath: ...
def write_json(path: str | PathLike[str] | RemotePath, content: Mapping[str, Any]) -> Location:
    """Write facts as JSON, in one step; numbers that are not finite become null."""
    file = location(path)
    make_folder(file.parent)
    replace_file(
        file, (json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )
    return file


def render_page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """A page as text."""
    page = _templates().get_template("page.html.j2")
    scripts = [_script(name) for name in dict.fromkeys(section.script for section in sections) if name]
    return page.render(title=title, subtitle=subtitle, sections=sections, scripts=scripts)


def _script(name: str) -> tuple[Markup, str]:
    """A script of this package, and its hash as a content security policy names it."""
    environment = _templates()
    assert environment.loader is not None
    text, _, _ = environment.loader.get_source(environment, f"{name}.js")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


def data_uri(image: Image.Image, longest_px: int = 512) -> str:
    """A picture as a `data:` address: small ones exactly, as PNG; others as JPEG, within `longest_px`."""
    image = image.convert("RGB")
    buffer = BytesIO()
    if max(image.size) <= _PNG_SIDE_PX:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=88, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dsd.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        data_uri=data_uri,
        share=percent,
        count=_count,
        number=_number,
        duration=duration,
        pretty=_pretty,
        compact=_compact,
        readable=_readable,
        dollars=dollars,
    )
    return environment


def percent(value: float | None) -> str:
    """A share in percent; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return _NONE
    return f"{100 * value:.0f}\N{NARROW NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if abs(value) >= 10_000 else str(value)


def _number(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Seconds in words: 4.2 s, 75 s, 11 min 42 s, 3 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _readable(raw: str) -> str:
    """A model's answers to read: JSON set out in lines, and no more than a screenful or two."""
    try:
        text = json.dumps(_opened(json.loads(raw)), indent=1, ensure_ascii=False).replace("\\n", "\n")
    except (ValueError, RecursionError):
        text = raw
    rest = len(text) - _RAW_CHARS
    return text if rest <= 0 else f"{text[:_RAW_CHARS]}\n[{rest} more characters]"


def _opened(value: Any) -> Any:
    """JSON with the JSON that stands in its texts: answers within the members' answers."""
    if isinstance(value, dict):
        return {key: _opened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_opened(item) for item in value]
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return _opened(json.loads(value))
        except ValueError:
            return value
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
