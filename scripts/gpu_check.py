"""Says in a few minutes how well a GPU is used: one training step beside two others, an epoch, the four-head sweep.

    python scripts/gpu_check.py --data arguana-counterargs-corpus.zip -o gpu_check
    python scripts/gpu_check.py --trial                  a small model on the sample, on any device: does it run?

The encoder has BERT base's shape and random weights, which cost the same. Its tokenizer is MiniLM's (extra minilm),
BERT's uncased vocabulary. Prints a Markdown table and leaves it in OUT/table.md, beside the runs themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "src")]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])

import direct_way  # noqa: E402
import our_way  # noqa: E402
import sentence_transformers_way  # noqa: E402
import torch  # noqa: E402
from alternate import Way, alternate, median_ratio, quiet_libraries  # noqa: E402
from setting import Setting  # noqa: E402

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
HEADS = "none,layernorm,relu,layernorm_relu"
Row = tuple[str, str, str, str]


def main() -> int:
    arguments = _parse()
    quiet_libraries()
    out = Path(arguments.output).resolve()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu" and not arguments.trial:
        print("error: there is no CUDA device here; --trial runs a small model on the CPU", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    model = save_random_bert(out / "model", SMALL if arguments.trial else BASE)
    setting = Setting(
        arguments.data,
        model=str(model),
        max_tokens=64 if arguments.trial else 512,
        batch_size=arguments.batch_size,
        cache_dir=str(out / "cache"),
        precision="bf16" if device == "cuda" else "fp32",
    )
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    lines = [f"{name}, torch {torch.__version__}", "", "| what | measured | times | target |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    own_dropout = replace(setting, dropout=None)
    for rows in (
        matrix_rate(device),
        steps(setting, device, arguments.num_turns, "no dropout"),
        steps(own_dropout, device, arguments.num_turns, "dropout 0.1"),
        epoch(setting, device, out, "no dropout"),
        epoch(own_dropout, device, out, "dropout 0.1"),
        sweep(setting, device, out),
    ):
        for row in rows:
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    (out / "table.md").write_text("\n".join(lines) + "\n", "utf-8")
    shutil.rmtree(model)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the ArguAna Counterargs corpus (default: the sample)")
    parser.add_argument(
        "-o", "--output", default="gpu_check", help="directory for runs and table (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pairs of a step (default: %(default)s)")
    parser.add_argument("--num-turns", type=int, default=12, help="steps of each way (default: %(default)s)")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--trial", action="store_true", help="a small model, 64 tokens")
    return parser.parse_args()


def save_random_bert(directory: Path, shape: dict[str, int]) -> Path:
    """A BERT of that shape with random weights, saved with MiniLM's tokenizer."""
    from transformers import BertConfig, BertModel

    from biencoder_ablate.config.schema import Config, ModelConfig, cache_directory
    from biencoder_ablate.encoder.pretrained import MINILM_NAME, find_model

    source = find_model(ModelConfig("minilm", MINILM_NAME), cache_directory(Config())).directory
    directory.mkdir(exist_ok=True)
    torch.manual_seed(0)
    BertModel(BertConfig(**shape)).save_pretrained(directory)
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    return directory


def matrix_rate(device: str, turns: int = 20) -> Iterator[Row]:
    """What a product of two large bf16 matrices reaches here, to read shares of a data sheet's figure by."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    float((a @ b).sum())
    started = time.perf_counter()
    for _ in range(turns):
        product = a @ b
    float(product.sum())
    rate = turns * 2 * size**3 / (time.perf_counter() - started)
    yield f"bf16 product, {size} × {size} × {size}", f"{rate / 1e12:.3g} TFLOP/s", "", ""


def steps(setting: Setting, device: str, num_turns: int, name: str) -> Iterator[Row]:
    """Training steps on the same triples, turn by turn. The direct way, which has no dropout, where there is none."""
    ways, targets = [Way("ours", our_way.training, (setting, num_turns, device))], []
    if setting.dropout == 0:
        ways.append(Way("direct way, fp32", direct_way.training, (setting, num_turns, device)))
        targets.append("≥ 10")
    if sentence_transformers_way.is_installed():
        library = sentence_transformers_way.training
        ways.append(Way("sentence-transformers, bf16", library, (setting, num_turns, device)))
        targets.append("≥ 2")
    seconds = alternate(ways, range(num_turns), num_warm=3)
    ours, *others = seconds.items()
    for (other, theirs), target in zip(others, targets, strict=True):
        ratio, low, high = median_ratio(theirs, ours[1])
        measured = f"{statistics.median(ours[1]):.3g} s; {other} {statistics.median(theirs):.3g} s"
        yield (
            f"training step, batch {setting.batch_size}, {name}",
            measured,
            f"{ratio:.3g} ({low:.3g} to {high:.3g})",
            target,
        )


def epoch(setting: Setting, device: str, out: Path, name: str) -> Iterator[Row]:
    """Two epochs of a whole run, as a user starts it; the second's figures."""
    rows = _run(setting, device, out, "training.epochs=2")
    last = rows[-1]
    share = last.get("flop_utilisation")
    yield (
        f"an epoch's training, {name}",
        f"{last['train_seconds']:.3g} s, {last['tokens_per_second']:.0f} tokens/s",
        "",
        "",
    )
    yield "its model FLOP utilisation", "not known here" if share is None else f"{share:.1%}", "", "≥ 40%"
    yield "ranking all splits", f"{last['eval_seconds']:.3g} s", "", ""
    if device == "cuda" and setting.dropout == 0:
        plain = _run(setting, device, out, "training.epochs=1", "training.fast=false", "training.precision=fp32")[-1]
        times = plain["train_seconds"] / last["train_seconds"]
        yield "the same without fast paths, fp32", f"{plain['train_seconds']:.3g} s", f"{times:.3g}", "none"


def sweep(setting: Setting, device: str, out: Path) -> Iterator[Row]:
    """The four heads, one epoch each."""
    ended = _program(setting, device, out, "-m", f"head={HEADS}", "training.epochs=1")
    total = ended.rstrip().splitlines()[-1].split(";")[0]
    yield "four heads, one epoch each", total, "", ""


def _run(setting: Setting, device: str, out: Path, *overrides: str) -> list[dict[str, float]]:
    """The epochs of one run, as its metrics.jsonl has them."""
    shown = _program(setting, device, out, *overrides)
    done = next(line for line in reversed(shown.splitlines()) if line.startswith("done in"))
    lines = (out / done.partition(": ")[2] / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _program(setting: Setting, device: str, out: Path, *arguments: str) -> str:
    dropout = "null" if setting.dropout is None else setting.dropout
    data = ["data=arguana", f"data.path={os.path.abspath(setting.data)}"] if setting.data else ["data=sample"]
    given = [
        *arguments, *data, "recipe=study", "model=minilm", f"model.name_or_path={setting.model}",
        f"model.max_tokens={setting.max_tokens}", f"model.dropout={dropout}", f"cache_dir={setting.cache_dir}",
        f"training.batch_size={setting.batch_size}", f"training.device={device}", "training.save_model=false",
    ]  # fmt: skip
    ended = subprocess.run([sys.executable, "-m", "biencoder_ablate", *given], cwd=out, capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(given)}:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout


if __name__ == "__main__":
    sys.exit(main())
