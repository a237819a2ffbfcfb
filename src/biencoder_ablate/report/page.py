"""The report as one HTML page that holds everything it shows: verdict first, no network, all text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.beside_source import BesideSource
from biencoder_ablate.report.collect import Collection
from biencoder_ablate.report.contents import (
    Block,
    Heading,
    Section,
    StudyParts,
    Words,
    missing_section,
    opening,
    source_section,
    study_sections,
)
from biencoder_ablate.report.debates import html_debates
from biencoder_ablate.report.html import html_figure, html_list, html_table
from biencoder_ablate.report.plotting import Picture
from biencoder_ablate.report.tables import Table


def build_page(
    studies: Sequence[StudyParts], collection: Collection, source: BesideSource | None, command: str, version: str
) -> str:
    """The whole page, of everything that was found."""
    script, css = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    last = [source_section(source)] if source else []
    last.append(missing_section(collection, [parts.analysis.study for parts in studies]))
    body = [_study(parts, f"s{k + 1}-" if len(studies) > 1 else "", last) for k, parts in enumerate(studies)]
    if len(studies) > 1:
        body.insert(0, _several(studies))
    body += [_section(section, "") for section in last]
    title = _title(studies[0].analysis) if len(studies) == 1 else "Ablation report"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)} · biencoder-ablate</title>",
            f"<style>{css}</style></head><body><main>",
            *body,
            f"<footer><p>Made by biencoder-ablate {escape(version)} with</p>"
            f"<pre><code>{escape(command)}</code></pre></footer>",
            f"</main><script>{script}</script></body></html>",
            "",
        ]
    )


def _asset(name: str) -> str:
    return resources.files("biencoder_ablate.report").joinpath(name).read_text("utf-8")


def _title(analysis: Analysis) -> str:
    if not analysis.study.axes:
        return "One configuration"
    axis = analysis.study.axes[0].name
    return f"Which {axis}?" if axis in ("head", "encoder", "negatives", "fusion") else f"Which {axis.split('.')[-1]}?"


def _several(studies: Sequence[StudyParts]) -> str:
    items = "".join(
        f'<li><a href="#s{k + 1}-verdict">{escape(parts.analysis.study.name)}</a>: '
        f"{escape(parts.analysis.headline)}</li>"
        for k, parts in enumerate(studies)
    )
    return (
        "<header><p class=kicker>biencoder-ablate report</p><h1>Several corpora</h1>"
        "<p class=lead>These runs were made on different corpora, or by versions of the program whose figures "
        f"differ. They are kept apart: nothing is compared across them.</p><ul>{items}</ul></header>"
    )


def _study(parts: StudyParts, prefix: str, shared: Sequence[Section]) -> str:
    """One study; `shared` are the sections after all studies, which its links lead to as well."""
    sections = study_sections(parts)
    links = "".join(
        f'<a href="#{start}{section.key}">{escape(section.title)}</a> '
        for start, listed in ((prefix, sections), ("", shared))
        for section in listed
    )
    body = "".join(_section(section, prefix) for section in sections)
    return (
        f'<article class=study><header id="{prefix}verdict">{_verdict(parts, prefix)}</header>'
        f'<nav aria-label="Sections">{links}</nav>{body}</article>'
    )


def _verdict(parts: StudyParts, prefix: str) -> str:
    analysis = parts.analysis
    study = analysis.study
    counts, debates = analysis.num_points, analysis.num_debates
    facts = [
        f"corpus {study.name}",
        f"{len(study.runs)} finished runs, {len(study.cells)} configurations, {len(study.seeds)} seeds",
        f"{counts[analysis.primary]} {analysis.primary} test points of {debates[analysis.primary]} debates",
    ]
    status = analysis.verdict.status if analysis.verdict else "none"
    return (
        f"<p class=kicker>biencoder-ablate report · {escape(study.name)}</p><h1>{escape(_title(analysis))}</h1>"
        f'<p class="lead {escape(status)}">{escape(analysis.headline)}</p>'
        f"<p class=facts>{escape(' · '.join(facts))}</p>{_blocks(opening(analysis), prefix)}"
    )


def _section(section: Section, prefix: str) -> str:
    blocks = _blocks(section.blocks, prefix)
    return f'<section id="{prefix}{section.key}"><h2>{escape(section.title)}</h2>{blocks}</section>'


def _blocks(blocks: Iterable[Block], prefix: str) -> str:
    return "".join(_block(block, prefix) for block in blocks)


def _block(block: Block, prefix: str) -> str:
    if isinstance(block, Heading):
        return f"<h3>{escape(block.text)}</h3>"
    if isinstance(block, Words):
        if block.kind == "list":
            return html_list(block.sentences)
        mark = " class=note" if block.kind == "note" else ""
        return "".join(f"<p{mark}>{escape(text)}</p>" for text in block.sentences)
    if isinstance(block, Table):
        return html_table(block, prefix)
    if isinstance(block, Picture):
        return html_figure(block)
    return html_debates(block.parts, prefix)
