"""Templates filled in, with everything that is printed escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from markupsafe import Markup

# Braces are LaTeX's own.
_LATEX_MARKS: dict[str, Any] = {
    "variable_start_string": "<<", "variable_end_string": ">>", "block_start_string": "<%", "block_end_string": "%>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


def fill(name: str, escape: Callable[[str], str] | None, filters: Mapping[str, Any], **values: Any) -> str:
    """The text of a template in templates/ with these values.

    What is printed goes through `escape`, or is escaped as HTML without one; what is Markup already stays as it is.
    """

    def escaped(value: Any) -> Any:
        return value if escape is None or isinstance(value, Markup) else Markup(escape(str(value)))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("biencoder_ablate.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        finalize=escaped, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        **(_LATEX_MARKS if name.endswith(".tex.j2") else {}),
    )  # fmt: skip
    environment.filters |= filters
    return environment.get_template(name).render(**values)
