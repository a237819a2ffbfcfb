"""A trained model in use: equal to the run's own rankings for every head, exported for sentence-transformers, and the
commands that take a run by its name."""

import ast
import base64
import importlib
import io
import json
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from support.helpers import REPOSITORY, files_below, load_sample, only_error, run_here, run_python, train

import biencoder_ablate
from biencoder_ablate import export
from biencoder_ablate.cli.main import COMMANDS
from biencoder_ablate.config.compose import conf_directory
from biencoder_ablate.data.corpus import limit_debates
from biencoder_ablate.evaluate import evaluate, trec_name
from biencoder_ablate.runs.directory import find_run

HEADS = sorted(path.stem for path in (conf_directory() / "head").glob("*.yaml"))
EVERY_DAY = [("mlp", "shared", "head"), ("layernorm_relu", "separate", "sum")]
DEBATES = 3
"""Of each split, in most runs here: each has six pairs."""
QUICK = (
    "model=tiny",
    "training.freeze_encoder=true",
    "training.epochs=0",
    f"data.limit={DEBATES}",
    "model.head_init=random",
)
"""A random head over a random projection ranks as well as any for holding two ways of ranking together."""


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """A run of no epochs, in a logs directory of its own."""
    return train(tmp_path_factory.mktemp("commands"), *QUICK, "head=mlp")


def rankings(run):
    return [json.loads(line) for line in (run / "rankings.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("head", "towers", "score"),
    [
        pytest.param(head, *how, marks=() if (head, *how) in EVERY_DAY else pytest.mark.slow)
        for head in HEADS
        for how in (("shared", "head"), ("separate", "sum"))
    ],
)
def test_the_same_order_as_the_runs_own_rankings(head, towers, score, tmp_path):
    """Each test point asks the texts of its split but its own; the counter's rank and the first are those on record."""
    settings = (f"head={head}", f"model.towers={towers}", f"evaluation.score={score}", "model.projection_init=random")
    run = train(tmp_path, *QUICK, *settings)
    records = [record for record in rankings(run) if record["split"] == "test"]
    pairs = limit_debates(load_sample(), DEBATES).test
    corpus = [pair.counter for pair in pairs] + [pair.point for pair in pairs]
    names = [f"{pair.id}#{kind}" for kind in ("counter", "point") for pair in pairs]
    model = biencoder_ablate.load(run)
    found = model.retrieve([pair.point for pair in pairs], corpus, k=len(corpus))
    assert [record["id"] for record in records] == [pair.id for pair in pairs]
    for row, record in enumerate(records):
        order = found.candidate[row]
        assert names[order[0]] == record["first"]
        assert order.tolist().index(row) + 1 == record["rank"]
        assert np.isfinite(found.score[row]).sum() == record["num_scored"]
        assert found.dead[row].sum() == record["num_dead"]
        scored = order[:10].tolist()
        scores = model.score(pairs[row].point, [corpus[candidate] for candidate in scored])
        np.testing.assert_allclose(found.score[row, :10], scores, atol=1e-5)
        r = model.encode_points(pairs[row].point), model.encode_candidates([corpus[place] for place in scored])
        np.testing.assert_allclose(found.distance[row, :10], np.linalg.norm(r[1] - r[0], axis=1), atol=1e-4)


def test_the_example_of_the_page_runs(quick_run, monkeypatch, capsys):
    page = (REPOSITORY / "docs" / "use.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(quick_run.parents[2])
    names: dict = {}
    exec(example, names)
    assert capsys.readouterr().out.startswith(tuple(names["corpus"]))
    width = names["model"].biencoder.architecture.retrieval_width
    assert names["points"].shape == (1, width) and names["candidates"].shape == (3, width)
    assert names["scores"].shape == (3,)
    assert names["again"].candidate.tolist() == names["results"].candidate[1:].tolist()


# --- export ---


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By name, (run, what was exported of it): shared tower, Euclidean, pooler, encoder trained; two towers, cosine,
    frozen, prompts."""
    cwd, made = tmp_path_factory.mktemp("exported"), {}
    for name, settings in {
        "trained": ("model=tiny", "recipe=study", "training.epochs=1", f"data.limit={DEBATES}", "model.pooling=pooler"),
        "frozen": (
            *QUICK,
            "model.projection_init=identity",
            "model.point_prompt='asks: '",
            "model.candidate_prompt='says: '",
        ),
    }.items():
        run = train(cwd, *settings)
        export.export(run, cwd / name)
        made[name] = run, cwd / name
    return made


@pytest.mark.slow
@pytest.mark.parametrize("which", ["trained", "frozen"])
def test_sentence_transformers_gives_the_same_embeddings(which, exported):
    pytest.importorskip("sentence_transformers")  # the extra `export`
    from sentence_transformers import CrossEncoder, SentenceTransformer

    run, out = exported[which]
    ours, theirs = biencoder_ablate.load(run), SentenceTransformer(str(out), device="cpu")
    pairs = load_sample().val
    points, counters = [pair.point for pair in pairs], [pair.counter * 3 for pair in pairs]  # some are cut
    np.testing.assert_allclose(theirs.encode_query(points), ours.encode_points(points), atol=2e-6)
    np.testing.assert_allclose(theirs.encode_document(counters), ours.encode_candidates(counters), atol=2e-6)
    similarity = theirs.similarity(theirs.encode_query(points[:1]), theirs.encode_document(counters)).numpy()[0]
    order = ours.retrieve(points[0], counters, k=len(counters)).distance[0]
    if which == "frozen":
        np.testing.assert_allclose(np.sort(-similarity), np.sort(order**2) / 2 - 1, atol=1e-5)
    else:
        np.testing.assert_allclose(np.sort(-similarity), np.sort(order), atol=1e-4)
    reranker = CrossEncoder(str(out / "run"), trust_remote_code=True)
    scores = reranker.predict(list(zip(points, counters, strict=True)))
    np.testing.assert_allclose(scores, ours.score(points, counters), atol=1e-5)
    best = [one["corpus_id"] for one in reranker.rank(points[0], counters, top_k=3)]
    assert best == np.argsort(-ours.score(points[0], counters), kind="stable")[:3].tolist()


@pytest.mark.slow
def test_what_was_exported_is_a_run_to_the_program_and_tells_no_path(exported, tmp_path):
    for run, out in exported.values():
        theirs, ours = biencoder_ablate.load(out), biencoder_ablate.load(run)
        assert theirs.name == ours.name == run.name
        np.testing.assert_array_equal(theirs.encode_points("Ban cars."), ours.encode_points("Ban cars."))
        text = "".join(path.read_text("utf-8") for path in out.rglob("*") if path.suffix in (".json", ".yaml", ".md"))
        assert str(run.parents[2]) not in text and "/home" not in text
        card = (out / "README.md").read_text("utf-8")
        result = json.loads((run / "result.json").read_text("utf-8"))
        for key in ("top1_stage1", "top1", "mrr_clean", "ndcg@10"):
            assert f"| {result['test'][key]:.4f} |" in card
        assert ("CC0" in card and "recipe=study" in card) or "model.head_init=random" in card


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the hub's answers to a new repository and one commit; `server.seen` is what was sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        lines = [json.loads(line) for line in body.decode().splitlines() if line]
        self.server.seen.append((self.path, lines))
        if self.path.endswith("/create"):
            answer = {"url": f"http://{self.headers['Host']}/{lines[0]['organization']}/{lines[0]['name']}"}
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in lines[0]["files"]
            ]
            answer = {"files": files}
        else:
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/1",
                "commitOid": "1",
                "errors": [],
                "warnings": [],
            }
        self.answer(200, answer)

    def do_GET(self):
        self.answer(200, {"sha": "0", "id": "me/mine", "siblings": [], "xetEnabled": False})

    def answer(self, code, value):
        sent = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_push_sends_every_file_to_a_private_repository(exported, tmp_path):
    """Against a stand-in for the hub; in a process of its own, since these tests keep the hub's library offline."""
    _, out = exported["frozen"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = (
            "import sys, pathlib; from biencoder_ablate.export import push\n"
            "print(push(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]))"
        )
        where = f"http://127.0.0.1:{server.server_port}"
        told = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_of_nobody", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        ended = run_python(["-c", program, out, "me/mine", where], tmp_path, **told)
        refused = run_python(["-c", program, out, "no name at all", where], tmp_path, **told)
        server.shutdown()
    assert ended.returncode == 0, ended.stderr
    created = server.seen[0][1][0]
    assert (created["name"], created["organization"], created.get("visibility", created.get("private"))) in (
        ("mine", "me", "private"),
        ("mine", "me", True),
    )
    (commit,) = [lines for path, lines in server.seen if "/commit/" in path]
    sent = {line["value"]["path"]: line["value"]["content"] for line in commit if line["key"] == "file"}
    assert set(sent) == files_below(out)
    assert base64.b64decode(sent["README.md"]) == (out / "README.md").read_bytes()
    assert "ValueError: --push no name at all" in refused.stderr


# --- the commands ---


def test_ir_measures_reads_the_trec_files_and_finds_the_same_figures(quick_run, tmp_path):
    """On all 47 candidates: the first, the reciprocal rank and nDCG@10 as the run has them; a re-ranked list too."""
    import ir_measures
    from ir_measures import RR, P, nDCG

    for rerank in ("10", "all"):
        report = evaluate(quick_run, [f"evaluation.rerank={rerank}"], trec=tmp_path, quiet=True)
        for split in ("val", "test"):
            qrels = list(ir_measures.read_trec_qrels(str(tmp_path / f"{split}.qrels")))
            run = list(ir_measures.read_trec_run(str(tmp_path / f"{split}.run")))
            assert len(qrels) == 24 and len(run) == 24 * 47
            found = ir_measures.calc_aggregate([P @ 1, RR, nDCG @ 10], qrels, run)
            expected = [report["measured"][split][key] for key in ("top1", "mrr", "ndcg@10")]
            assert [found[key] for key in (P @ 1, RR, nDCG @ 10)] == pytest.approx(expected, abs=1e-9)


def test_trec_files_have_all_right_answers_with_their_grades(tmp_path):
    import ir_measures
    from ir_measures import AP, RR, nDCG

    table = tmp_path / "several.csv"
    rows = [
        f"{split},{split} point {point} of many.,An answer {answer} to {split} {point}.,{answer + 1}"
        for split in ("train", "val", "test")
        for point in range(4)
        for answer in range(3)
    ]
    table.write_text("\n".join(["split,point,counter,grade", *rows]) + "\n")
    quick = [setting for setting in QUICK if not setting.startswith("data.")]
    run = train(tmp_path, *quick, "data=pairs", f"data.path={table}", "head=mlp")
    report = evaluate(run, [], trec=tmp_path / "out", quiet=True)
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "out" / "test.qrels")))
    assert sorted(answer.relevance for answer in qrels) == [1] * 4 + [2] * 4 + [3] * 4
    ranked = list(ir_measures.read_trec_run(str(tmp_path / "out" / "test.run")))
    found = ir_measures.calc_aggregate([AP, RR, nDCG @ 10], qrels, ranked)
    expected = [report["measured"]["test"][key] for key in ("map", "mrr", "ndcg@10")]
    assert [found[key] for key in (AP, RR, nDCG @ 10)] == pytest.approx(expected, abs=1e-9)


def test_names_in_trec_files_hold_no_blank():
    assert [trec_name(name) for name in ("a b/c#point", "a%20b", "é\tx")] == ["a%20b/c#point", "a%2520b", "é%09x"]


def test_a_run_is_found_by_its_name_and_as_latest(quick_run, monkeypatch, tmp_path):
    logs = quick_run.parents[1]
    monkeypatch.chdir(logs.parent)
    for name in (quick_run.name, "latest", "logs/latest", f"logs/runs/{quick_run.name}", str(quick_run)):
        assert find_run(name).resolve() == quick_run.resolve(), name
    failed = logs / "runs" / "failed_run"
    failed.mkdir()
    (failed / "result.json").write_text('{"status": "failed"}')
    (logs / "sweeps" / "mine").mkdir(parents=True)
    (logs / "sweeps" / "mine" / "runs.json").write_text("{}")
    assert find_run("latest").name == quick_run.name, "only what has finished"
    assert find_run("mine", sweeps=True) == Path("logs/sweeps/mine") == find_run("latest", sweeps=True)
    assert find_run("mine") == Path("mine") and find_run("nothing") == Path("nothing")
    monkeypatch.chdir(tmp_path)
    assert find_run("latest") == Path("latest")


def test_one_command_for_all(quick_run, tmp_path):
    """`biencoder-ablate WORD …` is that command; a word that is none is answered in one line."""
    ended = run_here(["retrieve", str(quick_run), "Ban cars.", "-k", "2", "--json"], tmp_path)
    assert ended.returncode == 0 and len(json.loads(ended.stdout)["results"]) == 2
    ended = run_here(["evaluate", str(tmp_path / "none")], tmp_path)
    assert ended.returncode == 1 and "no result.json there" in ended.stderr and ended.stderr.count("\n") == 1
    said = only_error(run_here(["reprot", "logs"], tmp_path), tmp_path)
    assert said == "reprot: there is no such command; did you mean report or export?"
    for word, module in COMMANDS.items():
        assert callable(importlib.import_module(f"biencoder_ablate.{module}").main), word


def test_importing_the_package_loads_nothing(tmp_path):
    program = "import sys; before = set(sys.modules); import biencoder_ablate; print(sorted(set(sys.modules) - before))"
    loaded = ast.literal_eval(run_python(["-c", program], tmp_path).stdout)
    ours = [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names]
    assert ours == ["biencoder_ablate", "biencoder_ablate.version"]


# --- retrieve: many arguments, tables, an index beside the model ---


def ask(run, *arguments, stdin=None, monkeypatch=None):
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    return run_here(["retrieve", str(run), *map(str, arguments)], run.parents[2])


def test_many_arguments_come_back_in_order_a_line_each(quick_run, tmp_path, monkeypatch):
    points = tmp_path / "points.csv"
    points.write_text('id,Point\n1,"Zoos are\ncruel."\n2,Ban cars.\n')
    for ended in (
        ask(quick_run, "--points", points, "-k", 1, "--json"),
        ask(
            quick_run,
            "-k",
            1,
            "--json",
            "evaluation.rerank=10",
            stdin="Zoos are cruel.\n\nBan cars.\n",
            monkeypatch=monkeypatch,
        ),
    ):
        assert ended.returncode == 0, ended.stderr
        found = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [" ".join(one["argument"].split()) for one in found] == ["Zoos are cruel.", "Ban cars."]
        alone = json.loads(ask(quick_run, "Ban cars.", "-k", 1, "--json").stdout)
        assert found[1]["results"][0]["text"] == alone["results"][0]["text"]


def test_candidates_of_a_table_are_its_columns(quick_run, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("point,counter,note\nBan cars.,Cars are needed.,x\nNo zoos.,Cars are needed.,y\n")
    found = json.loads(ask(quick_run, "Ban cars", "--candidates", table, "--json").stdout)
    assert {one["text"]: one["places"] for one in found["results"]} == {
        "Cars are needed.": ["line 2, counter", "line 3, counter"],
        "No zoos.": ["line 3, point"],
    }
    found = json.loads(ask(quick_run, "q", "--candidates", table, "--columns", "note", "--json").stdout)
    assert {one["text"] for one in found["results"]} == {"x", "y"}
    lines = tmp_path / "mine.jsonl"
    lines.write_text('{"text": "One."}\n{"text": "Two."}\n')
    assert json.loads(ask(quick_run, "q", "--candidates", lines, "--json").stdout)["num_candidates"] == 2
    for name, text, said in (
        (
            "a.csv",
            "a,b\n1,2\n",
            "its first line must name the columns; found a, b; name them with --columns A,B; texts",
        ),
        ("bare.csv", "Cars are needed.,Zoos keep animals that would die out there.\n", "found Cars are needed., Zoos"),
        (
            "a.jsonl",
            '{"a": "1"}\n',
            "point or text; found a; name them with --columns A,B; texts without names go into",
        ),
    ):
        (tmp_path / name).write_text(text)
        ended = ask(quick_run, "q", "--candidates", tmp_path / name)
        assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
        assert f"{name}: no column counter or point or text; " in ended.stderr and said in ended.stderr
    ended = ask(quick_run, table)
    assert ended.returncode == 1 and "is a file; give --points" in ended.stderr


def test_a_kept_index_gives_the_same_answer_and_goes_with_its_file(quick_run, tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("".join(f"Text number {number} of many.\n" for number in range(50)))
    kept = quick_run / "index"
    shutil.rmtree(kept, ignore_errors=True)
    first = ask(quick_run, "A text.", "--candidates", file, "--json")
    (made,) = (entry for entry in kept.iterdir() if entry.is_dir())
    written = (made / "index.safetensors").stat().st_mtime_ns
    assert ask(quick_run, "A text.", "--candidates", file, "--json").stdout == first.stdout
    assert (made / "index.safetensors").stat().st_mtime_ns == written
    (made / "index.safetensors").write_bytes(b"damaged")
    assert ask(quick_run, "A text.", "--candidates", file, "--json").stdout == first.stdout
    file.write_text("Another.\n")
    other = json.loads(ask(quick_run, "A text.", "--candidates", file, "--json").stdout)
    assert other["num_candidates"] == 1 and sum(entry.is_dir() for entry in kept.iterdir()) == 2


def test_one_after_another_on_a_terminal(quick_run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("Ban cars.\nZoos are cruel.\n\n"))
    ended = ask(quick_run, "-k", 1)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("argument> ") == 3 and ended.stdout.count("\n1. ") == 2


# --- the working directory ---

IN_THE_WAY = ("torch", "numpy", "yaml", "omegaconf", "hydra", "conf", "pathlib", "typing", "__future__", "argparse")


DOORS = [
    (["biencoder_ablate", "plan=true", "model=tiny"], "1 to run"),
    (["biencoder_ablate.runs"], "no runs here"),
    (["biencoder_ablate.evaluate", "x"], "no result.json there"),
]


@pytest.mark.parametrize(("arguments", "said"), DOORS)
def test_a_door_runs_nothing_of_the_working_directory(arguments, said, tmp_path):
    """Files called like modules, as they may lie beside logs that came from someone else."""
    for name in IN_THE_WAY:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "hydra_plugins" / "theirs").mkdir(parents=True)
    (tmp_path / "hydra_plugins" / "theirs" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    ended = run_python(["-m", *arguments], tmp_path)
    assert said in ended.stderr + ended.stdout


def test_a_program_that_imports_the_package_keeps_its_own_path(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import sys\nbefore = list(sys.path)\nimport biencoder_ablate\nassert sys.path == before\n"
    )
    for arguments in (["-m", "mine"], ["mine.py"], ["-c", "import mine"]):
        ended = run_python(arguments, tmp_path)
        assert ended.returncode == 0, ended.stderr
