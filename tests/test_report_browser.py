"""The page in a real browser, headless Chromium without a network: it renders, sorts, filters, holds 500 runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from report_runs import made_up_points, write_study
from test_report_page import Page

from biencoder_ablate.report.__main__ import main

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
        rows = [row for row in re.findall(r"<tr(.*?)</tr>", body, re.DOTALL) if not row.startswith(' hidden=""')]
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


@pytest.mark.parametrize("width", [1280, 400])
def test_it_can_be_seen(big, tmp_path, width):
    """A screenshot holds the verdict's and the figures' ink, and nothing is wider than the window."""
    import matplotlib.image

    picture = tmp_path / "page.png"
    browse(big, tmp_path / "profile", "", f"--window-size={width},3000", f"--screenshot={picture}", "--hide-scrollbars")
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (3000, max(width, 400))
    darkness = 1 - pixels.mean(axis=2)
    for top in range(0, 3000, 500):
        assert darkness[top : top + 500].max() > 0.8, f"nothing between {top} and {top + 500} pixels"
    assert darkness[:, -4:].max() < 0.2, "ink at the right edge: something is cut off"


def test_it_prints(big, tmp_path):
    browse(big, tmp_path / "profile", "", f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
