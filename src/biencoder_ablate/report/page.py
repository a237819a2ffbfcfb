"""The report as one HTML page that holds everything it shows: verdict first, no network, all text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from biencoder_ablate.report import words
from biencoder_ablate.report.analysis import Analysis, Family
from biencoder_ablate.report.beside_source import BesideSource
from biencoder_ablate.report.collect import Run
from biencoder_ablate.report.figures import shown_arms
from biencoder_ablate.report.grouping import Study
from biencoder_ablate.report.plotting import Picture
from biencoder_ablate.report.tables import (
    Column,
    Table,
    Value,
    constants_table,
    family_table,
    groups_table,
    leakage_table,
    missing_table,
    overview_table,
    runs_table,
    shown,
    tasks_table,
    versions_table,
)
from biencoder_ablate.report.wins import Example, Texts, Wins

FILTER_FROM = 8  # rows from which a table can be filtered


@dataclass(frozen=True, eq=False)
class StudyParts:
    """Everything that is shown of one study."""

    analysis: Analysis
    pictures: Sequence[Picture]
    wins: Sequence[Wins]
    texts: Texts


def build_page(
    studies: Sequence[StudyParts],
    runs: Sequence[Run],
    notes: Sequence[str],
    source: BesideSource | None,
    command: str,
    version: str,
) -> str:
    """The whole page. `runs` are all that were found, `notes` what collecting them brought up."""
    script, css = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    body = [_study(parts, f"s{k + 1}-" if len(studies) > 1 else "") for k, parts in enumerate(studies)]
    if len(studies) > 1:
        body.insert(0, _several(studies))
    if source is not None:
        body.append(_source_section(source))
    body.append(_missing_section(runs, [parts.analysis for parts in studies], notes))
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
            f"<footer><p>Made by biencoder-ablate {escape(version)} with</p>{_code_block(command)}</footer>",
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


# --- a study ---


def _study(parts: StudyParts, prefix: str) -> str:
    analysis = parts.analysis
    sections = [
        ("differences", "Differences", _differences(parts, prefix)),
        ("configurations", "Configurations", _configurations(parts, prefix)),
        ("learning", "Learning", _pictures(parts, "learning_curves", "learning_curves_by_setting", "dead_pairs")),
        ("leakage", "Leakage", _leakage(analysis, prefix)),
        ("tasks", "The eight tasks", _tasks(parts, prefix)),
        ("debates", "Debate by debate", _debates(parts, prefix)),
        ("declared", "Declared beforehand", _list(words.declared(analysis))),
        ("reproduce", "Settings, versions, commands", _reproduce(analysis, prefix)),
    ]
    present = [(key, title, html) for key, title, html in sections if html]
    links = "".join(f'<a href="#{prefix}{key}">{escape(title)}</a> ' for key, title, _ in present)
    body = "".join(
        f'<section id="{prefix}{key}"><h2>{escape(title)}</h2>{html}</section>' for key, title, html in present
    )
    return (
        f'<article class=study><header id="{prefix}verdict">{_verdict(parts, prefix)}</header>'
        f'<nav aria-label="Sections">{links}<a href="#missing">What is missing</a></nav>{body}</article>'
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
    overview = overview_table(analysis)
    status = analysis.verdict.status if analysis.verdict else "none"
    return (
        f"<p class=kicker>biencoder-ablate report · {escape(study.name)}</p><h1>{escape(_title(analysis))}</h1>"
        f'<p class="lead {escape(status)}">{escape(analysis.headline)}</p>'
        f"<p class=facts>{escape(' · '.join(facts))}</p>"
        + (html_table(overview, prefix) if overview else "")
        + _list(words.findings(analysis))
    )


def _list(sentences: Sequence[str]) -> str:
    return "<ul class=said>" + "".join(f"<li>{escape(text)}</li>" for text in sentences) + "</ul>" if sentences else ""


def _differences(parts: StudyParts, prefix: str) -> str:
    analysis = parts.analysis
    if not analysis.families:
        return ""
    html = _pictures(parts, "forest")
    within = []
    for k, family in enumerate(analysis.families):
        if family.kind == "setting":
            within.append(_family(family, analysis.study, analysis.primary, f"{prefix}family{k}"))
        else:
            html += _family(family, analysis.study, analysis.primary, f"{prefix}family{k}")
    if within:
        html += f"<h3>Setting by setting</h3>{_pictures(parts, 'forest_by_setting')}{''.join(within)}"
    return html


def _family(family: Family, study: Study, primary: str, key: str) -> str:
    notes = dict.fromkeys(note for result in family.primary for note in result.notes)
    over = ""
    if family.kind != "setting" and len(family.arms.settings) > 1:
        over = f"<p class=note>Averaged over {escape(words.settings_in_words(study, family.arms))}.</p>"
    said = "".join(f"<p class=note>Note: {escape(note)}.</p>" for note in notes)
    verdict = f"<p class=note>{escape(family.verdict.sentence)}</p>" if family.verdict else ""
    return html_table(family_table(family, primary, key), "") + verdict + over + said


def _configurations(parts: StudyParts, prefix: str) -> str:
    return html_table(groups_table(parts.analysis), prefix) + _pictures(parts, "seeds")


def _leakage(analysis: Analysis, prefix: str) -> str:
    table = leakage_table(analysis)
    if table is None or analysis.leakage is None:
        return ""
    return f"<p>{escape(analysis.leakage.sentence)}</p>{html_table(table, prefix)}"


def _tasks(parts: StudyParts, prefix: str) -> str:
    return _pictures(parts, "tasks") + html_table(tasks_table(shown_arms(parts.analysis)), prefix)


def _reproduce(analysis: Analysis, prefix: str) -> str:
    tables = [constants_table(analysis.study), versions_table(analysis.study), runs_table(analysis.study)]
    return "".join(html_table(table, prefix) for table in tables)


def _pictures(parts: StudyParts, *names: str) -> str:
    """The pictures of these names, or of these names and a page number."""
    chosen = [
        p for name in names for p in parts.pictures if p.name == name or p.name.rstrip("0123456789") == f"{name}_"
    ]
    return "".join(_figure(found) for found in chosen)


def _figure(found: Picture) -> str:
    data = base64.b64encode(found.svg).decode()
    size, words_of_it = f"width={found.width} height={found.height}", f"{found.title}: {found.caption}"
    return (
        f'<figure><img {size} src="data:image/svg+xml;base64,{data}" alt="{escape(words_of_it)}">'
        f"<figcaption><b>{escape(found.title)}.</b> {escape(found.caption)}</figcaption></figure>"
    )


# --- debates ---


def _debates(parts: StudyParts, prefix: str) -> str:
    if not parts.wins:
        return ""
    verdict = parts.analysis.verdict
    first = next((w for w in parts.wins if verdict and verdict.best in (w.a, w.b)), parts.wins[0])
    said = (
        "<p>What does one get right that the other gets wrong? Shares are over the runs of each, on the "
        f"{escape(parts.analysis.primary)} test points.</p>"
    )
    if parts.texts.problem:
        said += f"<p class=note>Texts are not available: {escape(parts.texts.problem)}.</p>"
    ordered = [first, *(w for w in parts.wins if w is not first)]
    return said + "".join(
        _pair(wins, parts.texts, f"{prefix}debates{k}", opened=k == 0) for k, wins in enumerate(ordered)
    )


def _pair(wins: Wins, texts: Texts, key: str, opened: bool) -> str:
    columns = (
        Column("debate"),
        Column("points", 0),
        Column(wins.a, 2),
        Column(wins.b, 2),
        Column("difference", 2, signed=True),
    )
    rows = tuple((d.debate, d.num_points, d.a, d.b, d.a - d.b) for d in wins.debates)
    ahead = sum(d.a > d.b for d in wins.debates)
    behind = sum(d.a < d.b for d in wins.debates)
    caption = (
        f"Share of a debate's points right at top 1, over {wins.num_runs} runs each: {wins.a} leads in {ahead} "
        f"debates, {wins.b} in {behind}, {len(wins.debates) - ahead - behind} are even."
    )
    examples = [
        f"<h4>{escape(winner)} right, {escape(loser)} wrong</h4>"
        + "".join(_example(x, wins, loser, texts, opened and k == 0 and winner == wins.a) for k, x in enumerate(found))
        for winner, loser, found in ((wins.a, wins.b, wins.for_a), (wins.b, wins.a, wins.for_b))
        if found
    ]
    return (
        f"<details class=pair{' open' if opened else ''}><summary>{escape(wins.a)} and {escape(wins.b)}</summary>"
        f"{html_table(Table(key, caption, columns, rows), '')}{''.join(examples)}</details>"
    )


def _example(example: Example, wins: Wins, loser: str, texts: Texts, opened: bool) -> str:
    shares = f"{wins.a} {example.a:.0%}, {wins.b} {example.b:.0%}"
    head = f"<summary><b>{escape(example.debate)}</b> <span>{escape(shares)}</span></summary>"
    boxes = [
        ("Point", f"{example.point}#point"),
        ("Its counter", f"{example.point}#counter"),
    ]
    if example.instead is not None:
        often = f"in {example.instead_runs} of {example.num_wrong} wrong runs"
        boxes.append((f"{loser} put first instead, {often}", example.instead))
    html = "".join(
        f"<div><h5>{escape(title)}</h5><p class=id>{escape(name)}</p>"
        + (f"<p>{escape(text)}</p>" if (text := texts.get(name)) is not None else "")
        + "</div>"
        for title, name in boxes
    )
    return f"<details class=example{' open' if opened else ''}>{head}<div class=texts>{html}</div></details>"


# --- what all studies share ---


def _source_section(source: BesideSource) -> str:
    problem = f"<p class=note>{escape(source.problem)}</p>" if source.problem else ""
    figures = "".join(_figure(found) for found in source.pictures)
    body = f"{problem}{figures}{html_table(source.table, '')}"
    return f'<section id="source"><h2>Beside the source study</h2>{body}</section>'


def _missing_section(runs: Sequence[Run], analyses: Sequence[Analysis], notes: Sequence[str]) -> str:
    table = missing_table(runs, [analysis.study for analysis in analyses])
    said = [words.tally(runs), *notes]
    if not table.rows:
        said.append("Every configuration has every seed.")
    return (
        f'<section id="missing"><h2>What is missing</h2>{_list(said)}'
        + (html_table(table, "") if table.rows else "")
        + "</section>"
    )


def _code_block(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


# --- tables ---


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
        f'<div class="table t-{escape(table.key)}{" long" if len(table.rows) > 60 else ""}" id="{escape(key)}">'
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
