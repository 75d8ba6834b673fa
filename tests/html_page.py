"""A strict reader of the pages that reports are."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

EVIL = "<script>alert('x')</script> & \"quotes\" {{ 7 * 7 }} </style><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "hr", "line", "rect", "polyline", "input"}


class Page(HTMLParser):
    """A strict reader: every tag is closed in order, and ids, sources and texts are kept."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.addresses, self.images = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        self.addresses += [
            value for name, value in attrs.items() if name in ("src", "href", "srcset", "action", "data")
        ]
        if tag == "img":
            self.images.append(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def check(text):
    """The page, valid and self-contained."""
    found = Page(text)
    assert text.startswith("<!doctype html>")
    # No script but the package's own, which the policy names by its hash.
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert found.tags.count("script") == len(scripts) <= 1
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in text
        assert script == (files("dsd.evaluation") / "templates" / "search.js").read_text()
    assert ("script-src" in text) == bool(scripts)
    assert "iframe" not in found.tags
    assert "link" not in found.tags
    assert found.addresses
    assert all(address.startswith("data:image/") for address in found.addresses)
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(attrs.get("alt", "").strip() and attrs["width"] and attrs["height"] for attrs in found.images)
    assert "default-src 'none'" in text
    for needed in ("lang=", "<title>", "charset", "viewport", "prefers-color-scheme"):
        assert needed in text
    return found
