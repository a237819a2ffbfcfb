"""The page in a real browser, headless Chromium without a network: it renders, sorts, filters, holds 500 runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from support.page import Page
from support.report_runs import made_up_points, sample_points, write_study

from biencoder_ablate.report.__main__ import main
from biencoder_ablate.utils.files import write_json

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)"),
]
NUM_RUNS = 500


@dataclass(frozen=True)
class Shown:
    """What the browser made of a page: its document as it stands, and what it complained of."""

    html: str
    complaints: list[str]

    def table(self, key: str) -> str:
        return self.html.partition(f'id="{key}"')[2].partition("</table>")[0]

    def column(self, key: str, number: int) -> list[str]:
        """The texts of a column, in the order of the rows that can be seen."""
        body = self.table(key).partition("<tbody>")[2]
        rows = [
            row for row in re.findall(r"<tr(.*?)</tr>", body, re.DOTALL) if 'hidden=""' not in row.partition(">")[0]
        ]
        return [re.sub("<.*?>", "", re.findall(r"<td.*?</td>", row, re.DOTALL)[number]) for row in rows]


def browse(page: Path, profile: Path, view: str = "", *more: str) -> Shown:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}", "--enable-logging=stderr", "--window-size=1280,1600", *more,
        f"{page.as_uri()}{view}",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert ended.returncode == 0, ended.stderr
    complaints = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return Shown(ended.stdout, complaints)


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> Path:
    """The page of 500 runs: four heads, five ratios, 25 seeds; one head far better."""
    place = tmp_path_factory.mktemp("big")
    means = {"none": 0.3, "layernorm": 0.35, "relu": 0.3, "layernorm_relu": 0.6}
    write_study(place / "runs", means, range(25), (0.01, 0.1, 0.2, 0.5, 0.8), made_up_points(20, 4), leaked=(0, 5))
    assert main([str(place / "runs"), "-o", str(place / "out")]) == 0
    return place / "out" / "index.html"


def test_it_renders_without_a_complaint(big, tmp_path):
    shown = browse(big, tmp_path / "profile", "", "--dump-dom")
    assert shown.complaints == []
    assert '<html lang="en" class="js">' in shown.html, "the script ran to its end"
    page = Page(re.sub(r"<(meta|link|img|input)([^>]*)>", r"<\1\2>", shown.html))
    assert "“layernorm_relu” wins" in page.text
    assert len(shown.column("runs", 0)) == NUM_RUNS


def test_it_sorts_by_number_either_way(big, tmp_path):
    for order in ("asc", "desc"):
        shown = browse(big, tmp_path / order, f"#runs?sort=6&order={order}", "--dump-dom")
        values = [float(value) for value in shown.column("runs", 6)]
        assert len(values) == NUM_RUNS
        assert values == sorted(values, reverse=order == "desc")
        assert f'aria-sort="{order}ending"' in shown.table("runs")
        assert shown.complaints == []


def test_it_sorts_names_and_numbers_within_names(big, tmp_path):
    shown = browse(big, tmp_path / "profile", "#runs?sort=1&order=desc", "--dump-dom")
    assert list(dict.fromkeys(shown.column("runs", 1))) == ["neg 0.8", "neg 0.5", "neg 0.2", "neg 0.1", "neg 0.01"]


@pytest.mark.parametrize("words", ["layernorm_relu neg 0.5", '"layernorm_relu" "neg 0.5"', 'LAYERNORM_R "neg 0.5"'])
def test_it_filters_by_every_word(big, tmp_path, words):
    view = f"#runs?sort=2&order=asc&filter={quote(words)}"
    shown = browse(big, tmp_path / "profile", view, "--dump-dom")
    seen = list(zip(shown.column("runs", 0), shown.column("runs", 1), strict=True))
    assert seen == [("layernorm_relu", "neg 0.5")] * 25
    assert [int(seed) for seed in shown.column("runs", 2)] == list(range(25))
    assert "25 of 500 rows" in shown.html


def test_a_word_in_quotes_is_a_whole_cell(big, tmp_path):
    shown = browse(big, tmp_path / "profile", "#groups?filter=%22relu%22", "--dump-dom")
    assert shown.column("groups", 0) == ["relu"] * 5


@pytest.mark.parametrize("view", ["#nonsense?sort=1", "#runs?sort=99&order=desc", "#runs?order=%F0", "#s<b>?sort=x"])
def test_a_link_that_makes_no_sense_changes_nothing(big, tmp_path, view):
    shown = browse(big, tmp_path / "profile", view, "--dump-dom")
    assert shown.complaints == []
    assert len(shown.column("runs", 0)) == NUM_RUNS


def test_clicks_and_keys_do_what_links_do(big, tmp_path):
    """The page with a second script that clicks and types; its policy is widened to let that one in."""
    steps = """
    const heads = document.querySelectorAll("#runs th");
    heads[6].click(); heads[6].click();
    const box = document.querySelector("#runs input");
    box.value = "RELU"; box.dispatchEvent(new Event("input"));
    document.querySelectorAll("#groups th")[3].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
    document.title = location.hash;
    """
    html = re.sub(r"script-src [^\"]*", "script-src &#x27;unsafe-inline&#x27;", big.read_text("utf-8"))
    driven = tmp_path / "driven.html"
    driven.write_text(html.replace("</body>", f"<script>{steps}</script></body>"), "utf-8")
    shown = browse(driven, tmp_path / "profile", "", "--dump-dom")
    assert shown.complaints == []
    values = [float(value) for value in shown.column("runs", 6)]
    assert values == sorted(values, reverse=True)
    assert set(shown.column("runs", 0)) == {"relu", "layernorm_relu"}
    figures = [float(value) for value in shown.column("groups", 3)]
    assert figures == sorted(figures)
    assert "<title>#groups?sort=3&amp;order=asc</title>" in shown.html


def test_a_script_of_someone_else_does_not_run(big, tmp_path):
    changed = tmp_path / "changed.html"
    changed.write_text(
        big.read_text("utf-8").replace("</body>", "<script>document.title='taken'</script></body>"), "utf-8"
    )
    shown = browse(changed, tmp_path / "profile", "", "--dump-dom")
    assert "<title>taken" not in shown.html
    assert any("Content Security Policy" in line for line in shown.complaints)


def test_it_prints(big, tmp_path):
    browse(big, tmp_path / "profile", "", f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


# --- at a desk and on a telephone, in light and dark; with playwright, which can hold a window at any width ---

DESK, TELEPHONE = (1400, 900), (420, 860)
VIEWS = [(size, scheme) for size in (DESK, TELEPHONE) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The page of four heads × eight seeds on the sample debates, beside what needs no training."""
    place = tmp_path_factory.mktemp("small")
    means = {"none": 0.3, "layernorm": 0.35, "relu": 0.3, "layernorm_relu": 0.6}
    figures = {"top1": 0.41, "top1_clean": 0.45, "recall@10": 0.8}
    for run in write_study(place / "runs", means, range(8), points=sample_points(), leaked=(0, 5)):
        result = json.loads((run / "result.json").read_text("utf-8"))
        result["test"] |= {"top1_stage1": 0.2, "top1_stage1_clean": 0.25}
        result["baselines"] = {name: {"test": figures} for name in ("pretrained", "bm25", "tfidf", "chance")}
        write_json(run / "result.json", result)
    assert main([str(place / "runs"), "-o", str(place / "out")]) == 0
    return place / "out" / "index.html"


@pytest.fixture(scope="module")
def window(small):
    """Opens the page in a window of a size, in light or dark."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser`")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def opened(size: tuple[int, int], scheme: str):
            page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
            page.goto(small.as_uri())
            return page

        yield opened
        browser.close()


def test_the_answers_the_figure_and_the_table_are_above_the_fold(window):
    page = window(DESK, "light")
    for what in (".answers", ".lead", ".top figure", "header .table table"):
        box = page.locator(what).first.bounding_box()
        assert box["y"] + box["height"] <= DESK[1], what
    assert page.locator("header .table tr.yardstick").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") == DESK[0]


def test_on_a_telephone_nothing_but_tables_scrolls_sideways_and_they_say_so(window):
    page = window(TELEPHONE, "light")
    assert page.evaluate("document.documentElement.scrollWidth") == TELEPHONE[0]
    figures = page.locator("figure img")
    assert figures.count() >= 5
    for figure in figures.all():
        assert figure.evaluate("image => image.naturalWidth") == 360, "the narrow drawing"
        box = figure.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= TELEPHONE[0] and box["width"] >= 360
    wider = 0
    for table in page.locator(".table:visible").all():
        overflows = table.locator(".scroll").evaluate("box => box.scrollWidth > box.clientWidth + 1")
        assert table.locator(".sideways").is_visible() == overflows
        wider += overflows
    assert wider >= 2


@pytest.mark.parametrize(("size", "scheme"), VIEWS)
def test_axe_finds_nothing_to_mend(window, size, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra `browser`")
    page = window(size, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found] == []


@pytest.mark.parametrize(("size", "scheme"), VIEWS)
def test_paper_and_ink_are_as_asked_for_in_figures_too(window, size, scheme):
    """Most of a figure is paper, as dark or light as the page's own; and some of it is ink."""
    import io

    import matplotlib.image

    page = window(size, scheme)
    pixels = matplotlib.image.imread(io.BytesIO(page.locator("figure img").first.screenshot()))[..., :3]
    paper, ink = (0.08, 0.92) if scheme == "dark" else (1.0, 0.0)
    assert np.median(pixels) == pytest.approx(paper, abs=0.01)
    assert np.abs(pixels - ink).min() < 0.05
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert body == ("rgb(20, 20, 20)" if scheme == "dark" else "rgb(255, 255, 255)")
