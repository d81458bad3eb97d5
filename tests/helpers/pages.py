"""The page of a run, and what stands on it."""

import re
from base64 import b64decode
from html import unescape

from vfn.report import report


def page_of(run):
    return report(run).read_text(encoding="utf-8")


def embedded(page):
    """Type and bytes of every picture in the page."""
    found = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    return [(kind, b64decode(data, validate=True)) for kind, data in found]


def headings(page):
    """The titles of the sections."""
    return re.findall(r"<h2>(.*?) <a ", page)


def rows_of(page, style):
    """The cells of a table as texts."""
    table = re.search(rf'<table class="{style}".*?</table>', page, flags=re.DOTALL)[0]
    return [
        [unescape(re.sub(r"<[^>]+>", " ", cell)).split() for cell in re.findall(
            r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
    ]  # fmt: skip


def values_of(page, label):
    """The cells of the table below a chart."""
    (found,) = re.findall(
        rf"<details><summary>{label}</summary>.*?</details>", page, flags=re.DOTALL
    )
    return rows_of(found, "values")
