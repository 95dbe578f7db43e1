"""The HTML page of a comparison: one file, pictures included, that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
figure { margin: 1.5rem 0; } figcaption { color: #555; }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; }
"""

INTRODUCTION = """
Each method trained the same network on the same data, with one seed or several; the tables give mean ± standard
deviation over the seeds. <b>baseline</b> is plain binary cross-entropy, <b>l2</b> and <b>minmax</b> are INDeeD with
that norm, and what follows a colon are options of it: with <b>lam_warmup=0.4</b> the weight of INDeeD's two terms rises
from 0 over the first 40 % of the training.
"""

MEASURES = """
<b>mAP</b>: mean average precision. <b>Confidence in classes shown</b>: mean predicted probability of the classes that
an image shows; <b>in the others</b>: of those it does not show, the lower the better. A <b>companion</b> is a class
that often stands beside another in the training images: a network free of contextual bias finds a class as well
without its companion as with it, and expects nothing where only the companion is.
"""


#: What the names of test sets stand for.
TESTS = {
    "single": "Each of these images shows one class, without the company it had in training.",
    "entire": "All test images, of one class or several; composites show any classes, whatever company they had.",
}


class Section(NamedTuple):
    """One test set on the page: its name, its table, and its two pictures."""

    test: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Path
    maps: Path


def render(recipe: str, command: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML."""
    title = f"Methods compared on {escape(recipe)}"
    body = "".join(map(_section, sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{INTRODUCTION}</p>
<p>{MEASURES}</p>
<p>Made by <code>{escape(command)}</code></p>
{body}</body>
</html>
"""


def _section(section: Section) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in section.headings)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in section.rows)
    bars = "The measures by method; a bar is the mean over the seeds, a whisker one standard deviation."
    maps = "Confidence maps, means over the seeds. Row: a class that the image shows; column: the predicted class."
    return f"""<h2>Test images: {escape(section.test)}</h2>
<p>{TESTS.get(section.test, "")}</p>
<table>
<tr>{head}</tr>
{rows}</table>
{_figure(section.bars, bars)}
{_figure(section.maps, maps)}
"""


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
