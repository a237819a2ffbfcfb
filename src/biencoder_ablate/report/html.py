"""A report's words, figures and tables as HTML, all text escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from biencoder_ablate.report.plotting import Picture
from biencoder_ablate.report.tables import Column, Table, Value, shown

FILTER_FROM = 8  # rows from which a table can be filtered
LONG_FROM = 60  # rows from which it scrolls within the page


def html_list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    return f"<ul class=said>{items}</ul>" if sentences else ""


def html_figure(found: Picture) -> str:
    """The figure with its bytes in it; in a narrow window it scrolls sideways rather than become unreadable."""
    data = base64.b64encode(found.svg).decode()
    size, words_of_it = f"width={found.width} height={found.height}", f"{found.title}: {found.caption}"
    return (
        f'<figure><div class=scroll><img {size} src="data:image/svg+xml;base64,{data}" alt="{escape(words_of_it)}">'
        f"</div><figcaption><b>{escape(found.title)}.</b> {escape(found.caption)}</figcaption></figure>"
    )


def html_table(table: Table, prefix: str) -> str:
    """A table that page.js can sort, and filter if it is long; without JavaScript it is a plain one."""
    key = f"{prefix}{table.key}"
    heads = "".join(
        f"<th scope=col{' class=n' if column.numeric else ''}>{escape(column.name)}</th>" for column in table.columns
    )
    body = "\n".join(f"<tr>{''.join(_cells(row, table.columns))}</tr>" for row in table.rows)
    tools = ""
    if table.data and len(table.rows) >= FILTER_FROM:
        tools = (
            f'<div class=tools><input type=search aria-label="Filter rows of {escape(key)}" '
            'placeholder="Filter: words, or &quot;a whole cell&quot;">'
            f"<output>{len(table.rows)} rows</output></div>"
        )
    return (
        f'<div class="table t-{escape(table.key)}{" long" if len(table.rows) > LONG_FROM else ""}" id="{escape(key)}">'
        f"<p class=caption>{escape(table.caption)}</p>{tools}"
        f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div></div>"
    )


def _cells(row: Iterable[Value], columns: Sequence[Column]) -> Iterable[str]:
    for value, column in zip(row, columns, strict=True):
        text = escape(shown(value, column))
        if column.code:
            yield f'<td class=code title="{text}"><code>{text}</code></td>'
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f'<td class=n data-v="{value!r}">{text}</td>'
        else:
            yield f"<td{' class=n' if column.numeric else ''}>{text}</td>"
