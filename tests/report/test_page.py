"""The report as files: the whole command on real runs, and every name escaped wherever it goes."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.helpers import run_python
from support.page import Page
from support.report_runs import HEADS, config_of, made_up_points, sample_points, write_run, write_study

from biencoder_ablate.config.compose import load_config
from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.report.__main__ import main
from biencoder_ablate.report.examples import load_texts
from biencoder_ablate.report.read import collect, read_overrides
from biencoder_ablate.report.render import latex_text, markdown_cell, markdown_text
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.report.tables import Column, format_value, interval_text
from biencoder_ablate.report.write import csv_text
from biencoder_ablate.training.experiment import run_experiment
from biencoder_ablate.utils.files import write_json

SEEDS = (0, 1)
VERDICT = "Too few seeds to name a winner: with 2|No head brings anything over its own stage 1"  # whichever it is


def check_page(html: str) -> Page:
    """Sound, self-contained, with its own script allowed and no other."""
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids), "an id twice"
    assert all(a.startswith(("#", "data:")) for a in page.addresses), "something would be fetched"
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids), "a link leads nowhere"
    assert page.handlers == []
    assert page.tags.count("script") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert "default-src 'none'" in policy
    assert f"sha256-{digest}" in policy
    css = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)[0]
    assert "url(" not in css and "@import" not in css
    return page


# --- the whole command, on real runs ---


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Four heads × two seeds of three epochs on the sample debates, the encoder small and frozen, for real."""
    place = tmp_path_factory.mktemp("ablation")
    for head in HEADS:
        for seed in SEEDS:
            overrides = [
                f"head={head}", f"seed={seed}", "recipe=study", "model=tiny", "training.freeze_encoder=true",
                "training.epochs=3",
                "evaluation.source=true", "training.save_model=false", f"logs_dir={place / 'logs'}",
                f"cache_dir={place / 'cache'}",
            ]  # fmt: skip
            config = load_config(overrides)
            run_experiment(config, OmegaConf.to_yaml(OmegaConf.structured(config)), overrides, quiet=True)
    return place / "logs"


@pytest.fixture(scope="module")
def written(logs) -> tuple[Path, list[str]]:
    """The report, by a process of its own, and the lines of its screen; the last of them: code, and torch or not."""
    out = logs.parent / "report"
    program = (
        "import sys; from biencoder_ablate.report.__main__ import main; "
        "code = main(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    )
    ended = run_python(["-c", program, str(logs), "-o", str(out)], logs.parent)
    assert ended.returncode == 0, ended.stderr
    return out, ended.stdout.splitlines()


@pytest.fixture(scope="module")
def report(written) -> Path:
    return written[0]


def test_all_files_are_written(report):
    files = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    figures = {"learning_curves", "forest", "seeds", "dead_pairs", "tasks"}
    assert files == {
        "index.html",
        "report.md",
        "table.csv",
        "table.tex",
        "runs.csv",
        "comparisons.csv",
        "verdict.json",
        "looks.json",
    } | {f"figures/{name}.{ending}" for name in figures for ending in ("svg", "png")}


def test_the_page_is_sound_and_says_what_there_is_to_say(report):
    page = check_page((report / "index.html").read_text("utf-8"))
    verdict = re.search(VERDICT, page.text)
    assert verdict
    assert verdict.start() < page.text.index("Differences"), "the verdict comes first"
    for words in (
        "need 8 seeds", "Clean and official are one here",
        "LayerNorm × ReLU", "none − layernorm_relu", "test top-1 at the epoch with the best official val top-1",
        "All 8 runs found have finished.", "Every configuration has every seed.", "training.freeze_encoder", "torch",
    ):  # fmt: skip
        assert words in page.text, words


def test_the_page_holds_the_texts_that_heads_differ_on(report):
    page = check_page((report / "index.html").read_text("utf-8"))
    texts = [pair.point for pair in load_corpus(DataConfig()).test]
    assert sum(" ".join(text.split()) in page.text for text in texts) >= 3


def test_texts_are_shown_when_the_corpus_has_gone_since_its_first_run(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("point,counter\n" + "".join(f"point {k},counter {k}\n" for k in range(9)), "utf-8")
    overrides = [
        "recipe=study", "model=tiny", "training.freeze_encoder=true", "training.epochs=0", "data=pairs",
        f"data.path={table}", f"logs_dir={tmp_path / 'logs'}", f"cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    config = load_config(overrides)
    pairs = load_corpus(config.data).test
    run_experiment(config, OmegaConf.to_yaml(OmegaConf.structured(config)), overrides, quiet=True)
    table.unlink()
    (study,) = make_studies(collect([tmp_path / "logs"]).runs)
    assert [load_texts(study).by_name[f"{pair.id}#counter"] for pair in pairs] == [pair.counter for pair in pairs]


def test_every_run_s_command_is_there_and_makes_that_run(report, logs):
    page = check_page((report / "index.html").read_text("utf-8"))
    for run in (logs / "runs").iterdir():
        if run.name.startswith("."):
            continue
        overrides = list(read_overrides(run / ".hydra" / "overrides.yaml"))
        assert f"python -m biencoder_ablate {' '.join(overrides)}" in page.text
        before = (run / "result.json").stat().st_mtime_ns
        again = run_experiment(load_config(overrides), "", overrides, quiet=True)
        assert again.directory.name == run.name, "the command names this very run"
        assert (run / "result.json").stat().st_mtime_ns == before, "which is not trained again"


def test_figures_in_the_tables_are_those_of_the_runs(report, logs):
    rows = list(csv.DictReader((report / "runs.csv").open(encoding="utf-8")))
    assert len(rows) == 8
    for row in rows:
        result = json.loads((logs / "runs" / row["run"] / "result.json").read_text("utf-8"))
        assert float(row["test top-1"]) == result["test"]["top1"]
        assert float(row["clean test top-1"]) == result["test"]["top1_clean"]
        assert int(row["epoch"]) == result["best_epoch"]
        assert row["head"] in row["run"]
    groups = list(csv.DictReader((report / "table.csv").open(encoding="utf-8")))
    assert [group["head"] for group in groups] == list(HEADS)
    for group in groups:
        values = [float(row["clean test top-1"]) for row in rows if row["head"] == group["head"]]
        assert float(group["clean_mean"]) == pytest.approx(sum(values) / 2)
        assert (group["num_seeds"], group["seeds"]) == ("2", "0 1")
    comparisons = list(csv.DictReader((report / "comparisons.csv").open(encoding="utf-8")))
    assert len(comparisons) == 2 * (3 + 6)
    assert {row["figure"] for row in comparisons if row["decides"] == "True"} == {"clean"}


def test_every_file_has_the_metric_that_was_asked(logs, tmp_path):
    """By another metric a reviewer gets the means of table.csv from runs.csv, and the paper's table names it."""
    assert main([str(logs), "-o", str(tmp_path), "--metric", "ndcg@10"]) == 0
    rows = list(csv.DictReader((tmp_path / "runs.csv").open(encoding="utf-8")))
    for row in csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")):
        for protocol, column in (("clean", "clean test nDCG@10"), ("official", "test nDCG@10")):
            values = [float(run[column]) for run in rows if run["head"] == row["head"]]
            assert float(row[f"{protocol}_mean"]) == pytest.approx(sum(values) / len(values), abs=1e-12)
    assert any(run["test nDCG@10"] != run["val nDCG@10"] for run in rows)
    text = (tmp_path / "table.tex").read_text("utf-8")
    assert "test nDCG@10 & " in text and "top-1" not in text.lower()


def test_what_a_head_costs_is_on_the_page(report, logs):
    results = [json.loads(path.read_text("utf-8")) for path in (logs / "runs").glob("[!.]*/result.json")]
    weights = {head: {r["trained_weights"] for r in results if r["name"].startswith(f"{head}_neg")} for head in HEADS}
    ((none,), (layernorm,), (relu,), (both,)) = weights.values()
    features = 3 * (512 + 128)  # widths of h and r; LayerNorm has a weight and a bias for each
    assert (relu, both) == (none, layernorm) and layernorm == none + 2 * features
    html = (report / "index.html").read_text("utf-8")
    costs = re.findall(r'<div class="table t-costs".*?</table>', html, re.DOTALL)[0]
    heading = re.findall(r"<th[^>]*>(?:<button[^>]*>)?([^<]+)", costs)
    rows = [re.findall(r'<td(?: class=n data-v="([^"]*)")?>([^<]*)</td>', row) for row in costs.split("<tr>")[2:]]
    assert [row[0][1] for row in rows] == list(HEADS)
    of_rows = [dict(zip(heading, (float(value or "nan") for value, _ in row), strict=True)) for row in rows]
    assert [row["trained weights"] for row in of_rows] == [none, layernorm, relu, both]
    for name in ("operations a pair", "bytes a text", "ms a step", "ms an answer", "seconds a run"):
        assert all(row[name] > 0 for row in of_rows), name
    operations = [row["operations a pair"] for row in of_rows]
    assert operations[1] == operations[0] + 7 * features, "a LayerNorm has seven operations a feature"
    assert 'id="alive"' in html and "bypassed after training" in html


def test_the_markdown_s_figures_exist_and_its_tables_are_even(report):
    text = (report / "report.md").read_text("utf-8")
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(links) == 5
    assert all((report / link).is_file() for link in links)
    assert re.search(rf"^\*\*({VERDICT})", text, re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_page_and_markdown_say_the_same(report):
    """Every sentence and every table of the one is in the other, but for the debates and the runs' figures."""
    html, text = (report / "index.html").read_text("utf-8"), (report / "report.md").read_text("utf-8")
    html = re.sub(r'<section id="debates">.*?</section>', "", html, flags=re.DOTALL)
    plain = " ".join(re.sub(r"\\(.)", r"\1", text).split())
    html = re.sub(r'<ul class="answers.*?</ul>|<p class=sideways.*?</p>', "", html, flags=re.DOTALL)
    said = re.findall(r"<(?:li|h2|p(?: class=[^>]*)?)>(.*?)</(?:li|h2|p)>", html)
    said += [
        words for caption in re.findall(r"<figcaption><b>(.*?)[.]</b> (.*?)</figcaption>", html) for words in caption
    ]
    said = [unescape(re.sub("<.*?>", "", found)) for found in said]
    said = [found for found in said if not re.match("Every finished run|Made by|biencoder-ablate report", found)]
    assert len(said) > 30
    assert [found for found in said if plain.count(found) < said.count(found)] == []
    for table in ("groups", "family0", "family1", "task-figures", "settings", "versions"):
        body = html.partition(f'id="{table}"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
        rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.strip().splitlines()]
        assert rows
        for row in rows:
            assert " | ".join(unescape(cell) for cell in row) in plain, row


def answers_of(html: str) -> list[str]:
    """The page's answers, each as one line."""
    lines = re.findall(
        r"<li><b>(.*?)</b> <span class=.verdict \w+.><span.*?</span> (.*?)</span><br>(.*?)</li>", html, re.DOTALL
    )
    return [unescape(f"{part}: {words}; {detail}") for part, words, detail in lines]


def test_page_markdown_and_screen_begin_with_the_same_answers(written):
    report, screen = written
    found = answers_of((report / "index.html").read_text("utf-8"))
    assert [line.partition(":")[0] for line in found] == ["LayerNorm", "ReLU", "LayerNorm and ReLU together"]
    assert screen[:3] == found
    text = re.sub(r"\\(.)", r"\1", (report / "report.md").read_text("utf-8"))
    assert [line[2:].replace("**", "") for line in text.splitlines() if line.startswith("- **")] == found


def test_the_latex_table_has_a_row_for_each_head(report):
    text = (report / "table.tex").read_text("utf-8")
    assert r"layernorm\_relu & 2 & " in text
    assert (
        text.count(r"\begin{table}")
        == text.count(r"\caption{Top-1 on sample (")
        == text.count(r"\label{tab:sample}")
        == 1
    )
    assert "Needs \\usepackage{booktabs}.\n" in text
    assert re.search(r"layernorm\\_relu & 2 & 0\.\d{3} \$\\pm\$ 0\.\d{3} & \[", text)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + 4 + 4, "the heading, four heads, and four baselines"
    assert "\nBM25 & -- & 0." in text
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_sets_the_table_within_the_width_of_its_text(report, tmp_path):
    (tmp_path / "table.tex").write_bytes((report / "table.tex").read_bytes())
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\\noindent\n\\input{table}\n\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert (tmp_path / "paper.pdf").is_file()
    assert "Overfull" not in ended.stdout


def test_the_same_runs_give_the_same_report(report, logs):
    """Figures too, byte for byte."""
    out = logs.parent / "report"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main([str(logs), "-o", str(out)]) == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_report_loads_no_torch(written):
    assert written[1][-1] == "0 False"


# --- people's mistakes ---


def said(arguments: list[str], capsys) -> str:
    """The one message of a command that cannot be carried out."""
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_mistakes_end_in_one_message(tmp_path, capsys):
    runs = tmp_path / "runs"
    failed = write_study(runs, {"none": 0.5}, seeds=(0,))[0]
    write_json(failed / "result.json", {"status": "failed", "error": "ValueError: it was the wrong day"})
    (tmp_path / "file").write_text("", "utf-8")
    out = str(tmp_path / "out")
    assert "no finished run to report on" in (message := said([str(runs), "-o", out], capsys))
    assert "it was the wrong day" in message
    assert "no such directory" in said([str(tmp_path / "gone"), "-o", out], capsys)
    assert "is a file" in said([str(runs), "-o", str(tmp_path / "file")], capsys)
    assert not Path(out).exists(), "nothing is written before everything is worked out"
    write_study(runs, {"none": 0.5}, seeds=(1,))
    capsys.readouterr()
    assert main([str(runs), "-o", str(tmp_path / "file" / "x")]) == 1
    assert "/x: cannot be written to (Not a directory)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("missing", [["scipy"], ["jinja2"], ["scipy", "matplotlib", "jinja2"]])
def test_without_the_extra_one_message_names_it(tmp_path, missing):
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); "
        "from biencoder_ablate.report.__main__ import main; sys.exit(main(['x', '-o', 'y']))"
    )
    ended = run_python(["-c", program], tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: a report needs {' and '.join(missing)}; install the `report` extra: "
        "pip install 'biencoder-ablate[report]'\n"
    )


def test_help_loads_nothing_heavy(tmp_path):
    program = (
        "import sys, contextlib; from biencoder_ablate.report.__main__ import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print({'scipy', 'matplotlib', 'jinja2', 'torch', 'numpy'} & set(sys.modules))"
    )
    ended = run_python(["-c", program], tmp_path)
    assert "--output OUT" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "set()"


# --- what is not whole ---


def test_what_is_missing_is_on_the_page_and_on_the_screen(tmp_path, capsys):
    runs = tmp_path / "logs" / "runs"
    written = write_study(runs, dict.fromkeys(HEADS, 0.5), seeds=range(2), points=sample_points())
    write_json(written[1] / "result.json", {"status": "failed", "error": "TrainingDiverged: the loss is not finite"})
    (written[3] / "result.json").unlink()
    sweep = tmp_path / "logs" / "sweeps" / "s"
    sweep.mkdir(parents=True)
    jobs = [{"overrides": ["head=relu", "seed=9"], "name": "relu_seed9", "directory": "../../runs/relu_seed9"}]
    asked = ["head=relu", "seed=9,10", "a b=c"]
    write_json(sweep / "runs.json", {"name": "s", "overrides": asked, "jobs": jobs})
    out = tmp_path / "out"
    assert main([str(tmp_path / "logs"), "-o", str(out)]) == 0
    screen = capsys.readouterr().out
    text = check_page((out / "index.html").read_text("utf-8")).text
    for words in ("failed", "TrainingDiverged: the loss is not finite", "interrupted", "not started"):
        assert words in screen and words in text
    assert "6 of 9 runs found have finished" in screen
    assert "none lacks seeds 1; others have it" in text
    assert "python -m biencoder_ablate head=relu seed=9" in text
    assert "sweep s 0 of 1 runs finished its command goes on with the rest" in text
    assert "python -m biencoder_ablate -m head=relu seed=9,10 'a b=c'" in text
    markdown_text = (out / "report.md").read_text("utf-8")
    assert "sweep s | 0 of 1 runs finished" in markdown_text and "The page lists 1 more." in markdown_text
    assert "not started | listed" not in markdown_text


def test_an_error_of_many_lines_is_one_on_the_screen(tmp_path, capsys):
    written = write_study(tmp_path / "runs", {"none": 0.5}, seeds=range(2), points=sample_points())
    write_json(written[1] / "result.json", {"status": "failed", "error": "OutOfMemoryError: no\n  memory\nleft"})
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 0
    assert f"  {written[1].name}: failed, OutOfMemoryError: no memory left\n" in capsys.readouterr().out


def test_two_corpora_are_two_reports_on_one_page(tmp_path):
    write_study(tmp_path / "runs", {"none": 0.3, "relu": 0.6}, seeds=range(6), points=sample_points())
    write_study(tmp_path / "runs", {"none": 0.3, "relu": 0.3}, seeds=range(3), points=made_up_points(5))
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "-o", str(out)]) == 0
    page = check_page((out / "index.html").read_text("utf-8"))
    assert "nothing is compared across them" in page.text
    assert {"s1-verdict", "s2-verdict", "s1-runs", "s2-runs"} <= set(page.ids)
    assert len(list((out / "figures").glob("*/forest.svg"))) == 2
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (out / "report.md").read_text("utf-8"))
    assert links and all((out / link).is_file() for link in links)
    rows = list(csv.DictReader((out / "table.csv").open(encoding="utf-8")))
    assert len({row["corpus"] for row in rows}) == 2


# --- escaping ---

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def evil_report(tmp_path_factory) -> Path:
    """A report whose every name is an attack: file, debate, theme, text, encoder, override, error."""
    place = tmp_path_factory.mktemp("evil")
    table = place / f"{EVIL} & _co|$.csv"
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(["point", "counter", "split", "theme", "debate"])
    for k in range(12):
        split = ("train", "val", "test")[k % 3]
        writer.writerow([f"{EVIL}</script>{k}", f"</p>{EVIL} c{k}", split, f'"{EVIL}', f"'{EVIL}<!-- {k // 6}"])
    table.write_text(lines.getvalue(), "utf-8")
    data = DataConfig(name="pairs", path=str(table))
    corpus = load_corpus(data)
    points = [(pair.id, pair.debate) for pair in corpus.test]
    for name, right in ((f"a/{EVIL}", [1, 1, 0, 0]), ("b/]] `x` $y$ </style>", [0, 0, 1, 1])):
        for seed in range(2):
            config = config_of("relu", seed, data=data)
            config = replace(config, model=replace(config.model, name="minilm", name_or_path=name))
            write_run(
                place / "runs", config, right, points, fingerprint=corpus.fingerprint, encoder=name * 2,
                overrides=[f"model.name_or_path={name}"],
            )  # fmt: skip
    broken = write_run(place / "runs", config_of("none", 7, data=data), [1] * 4, points)
    write_json(broken / "result.json", {"status": "failed", "error": f"E: {EVIL} | `x`\nsecond line"})
    out = place / "out"
    assert main([str(place / "runs"), "-o", str(out)]) == 0
    return out


def test_no_name_becomes_markup(evil_report):
    html = (evil_report / "index.html").read_text("utf-8")
    page = check_page(html)
    assert EVIL not in html
    assert f"{EVIL}</script>" in page.text, "the texts are there, as texts"
    assert f"E: {EVIL} | `x` second line" in page.text
    figures = [a for a in page.addresses if a.startswith("data:image/svg+xml;base64,")]  # wide and narrow
    for figure in figures:
        svg = base64.b64decode(figure.partition(",")[2])
        assert b"<img" not in svg and b"<script" not in svg
    assert page.tags.count("img") == page.tags.count("source") == len(figures) // 2


def test_no_name_breaks_a_markdown_table(evil_report):
    text = (evil_report / "report.md").read_text("utf-8")
    assert not re.search(r"(?<!\\)<img", re.sub(r"`[^`\n]*`", "", text))
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_no_name_breaks_a_csv(evil_report):
    for name in ("table.csv", "runs.csv", "comparisons.csv"):
        rows = list(csv.reader((evil_report / name).open(encoding="utf-8", newline="")))
        assert len({len(row) for row in rows}) == 1, name


@given(st.text())
def test_latex_text_has_no_active_character_left(text):
    escaped = latex_text(text)
    for command in (
        r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}",
        r"\textbar{}", "$-$", r"$\times$", r"$\pm$", r"$\bullet$", r"\&", r"\%", r"\$", r"\#", r"\_", r"\{", r"\}",
    ):  # fmt: skip
        escaped = escaped.replace(command, "")
    assert not set(escaped) & set("\\&%$#_{}~^<>|\n")


@given(st.text())
def test_markdown_text_keeps_to_its_cell(text):
    escaped = markdown_text(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<`*]", escaped)


@given(st.text(min_size=1).filter(str.strip))
def test_code_in_markdown_keeps_to_its_cell(text):
    cell = markdown_cell(text, Column("a", code=True))
    assert "\n" not in cell
    assert not re.search(r"(?<!\\)\|", cell)
    ticks = re.match("`+", cell)[0]
    assert cell.endswith(ticks) and ticks not in cell[len(ticks) : -len(ticks)]


# --- values ---


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.41249, Column("x", 3), "0.412"),
        (-0.0104, Column("x", 3, signed=True), "−0.010"),
        (0.0104, Column("x", 3, signed=True), "+0.010"),
        (-0.0001, Column("x", 3, signed=True), "0.000"),
        (float("nan"), Column("x", 3), "–"),
        (None, Column("x"), "–"),
        (3, Column("x", 1), "3"),
        (True, Column("x"), "yes"),
        (0.00003, Column("x", p=True), "< 0.001"),
        (0.0117, Column("x", p=True), "0.012"),
        (1.0, Column("x", p=True), "1"),
        ("name", Column("x", 3), "name"),
    ],
)
def test_values_as_people_read_them(value, column, text):
    assert format_value(value, column) == text


def test_intervals_that_are_not_there_are_dashes():
    assert interval_text(float("nan"), float("nan")) == "–"
    assert interval_text(-0.01, 0.02, signed=True) == "[−0.010, +0.020]"


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.0003, 0.0258, "[−0.000, +0.026]"),
        (0.0003, 0.0258, "[+0.000, +0.026]"),
        (-0.02, -0.0001, "[−0.020, −0.000]"),
        (0.0, 0.0, "[0.000, 0.000]"),
    ],
)
def test_an_end_of_an_interval_shows_on_which_side_of_0_it_lies(low, high, text):
    assert interval_text(low, high, signed=True) == text


def test_csv_leaves_out_what_is_no_number():
    rows = [{"a": float("nan"), "b": 0.1}, {"a": None, "b": 'x,"y'}]
    assert csv_text(rows) == 'a,b\n,0.1\n,"x,""y"\n'
