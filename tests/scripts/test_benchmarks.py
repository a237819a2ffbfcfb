"""The benchmarks: the direct way computes what the program computes, and the commands run."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from support.helpers import run_python, start

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import direct_way  # noqa: E402
import our_way  # noqa: E402
from setting import Setting, draw_triples  # noqa: E402

from biencoder_ablate.encoder.tiny import make_tiny  # noqa: E402
from biencoder_ablate.training.loop import make_optimizer, train_step  # noqa: E402


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory):
    """A directory with a BERT and its tokenizer."""
    return make_tiny(tmp_path_factory.mktemp("small_bert"))


def test_the_direct_way_computes_the_same_loss(small_bert):
    setting = Setting(None, model=str(small_bert), max_tokens=48, batch_size=6)
    parts = our_way.build(setting)
    ours = parts.context.model
    direct = direct_way.DirectModel(str(small_bert), setting.max_tokens)
    direct.linear1.load_state_dict(ours.linear1.state_dict())
    direct.norm.load_state_dict(ours.head.norm.state_dict())
    direct.linear2.load_state_dict(ours.head.linear2.state_dict())
    table = setting.table()
    (batch,) = draw_triples(table, setting.batch_size, 1, seed=3)
    expected = direct_way.batch_loss(direct, *([table.texts[i] for i in role] for role in batch))
    optimizer = make_optimizer(ours, parts.context.config)
    ours.train()
    losses, _ = train_step(parts.context, optimizer, our_way.as_pairs(batch))
    assert losses[0].item() / setting.batch_size == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_the_table_is_printed(tmp_path):
    arguments = [ROOT / "benchmarks" / "run.py", "--quick", "--only", "ranking", "growth"]
    ended = run_python(arguments, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "| mining and ranking all splits |" in ended.stdout and "| 512 |" in ended.stdout


@pytest.mark.slow
def test_the_gpu_check_runs_anywhere(tmp_path):
    arguments = ["--trial", "--device", "cpu", "--num-turns", "2", "-o", "out", "--only", "steps", "bits", "frozen"]
    ended = run_python([ROOT / "scripts" / "gpu_check.py", *arguments], tmp_path)
    assert ended.returncode == 0, ended.stderr
    table = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert table.splitlines()[-1].startswith("| metrics of frozen layernorm_relu, seed 0 | val top1 0.")
    assert "failed" not in table and "| two runs, training.deterministic=true | equal bits |" in table


def test_the_gpu_check_keeps_what_it_has_measured(tmp_path, monkeypatch, capsys):
    """Of five parts one fails, one is stopped by the alarm, and the last has no time left."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    check_module = runpy.run_path(str(ROOT / "scripts" / "gpu_check.py"))
    part, time_spent = check_module["Part"], check_module["TimeSpent"]

    def rows(check):
        yield "one", "1 |\n2", "", ""

    def failing(check):
        yield "two", "2", "", ""
        raise RuntimeError("out of memory")

    def endless(check):
        yield "three", "3", "", ""
        raise time_spent

    check = check_module["Check"]("cpu", tmp_path, tmp_path, None, None, 100.0, True, 2, {})
    check_module["measure"](check, [part("long", 300, rows), part("a", 1, rows), part("b", 1, failing)])
    check_module["measure"](check, [part("c", 1, endless), part("d", 1, rows)])
    found = [line.split(" | ")[0] for line in (tmp_path / "table.md").read_text("utf-8").splitlines()]
    assert found == ["| long", "| one", "| two", "| b", "| three", "| c"]
    assert (
        "left out: 100 s left" in check.lines[0] and "out of memory" in check.lines[3] and "stopped" in check.lines[5]
    )
    assert sorted(json.loads((tmp_path / "figures.json").read_text("utf-8"))["seconds"]) == ["a", "b"]
    assert sum(part.seconds for part in check_module["PLAN"]) == 540


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    script = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = start(["-c", script, ROOT / "scripts" / "gpu_check.py", "-o", "out"], tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and "--trial" in said and not (tmp_path / "out").exists()
