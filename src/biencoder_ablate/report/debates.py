"""Debate by debate on the page: what one arm gets right that another gets wrong, with the texts."""

from __future__ import annotations

from html import escape

from biencoder_ablate.report.contents import StudyParts
from biencoder_ablate.report.html import html_table
from biencoder_ablate.report.tables import Column, Table
from biencoder_ablate.report.wins import Example, Texts, Wins


def html_debates(parts: StudyParts, prefix: str) -> str:
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
