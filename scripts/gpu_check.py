"""Measures a GPU in ten minutes: training steps beside two other ways, whole runs, and the bits of equal runs.

    python scripts/gpu_check.py --plan                                   what is measured, in seconds planned
    python scripts/gpu_check.py --pack gpu_carry --data CORPUS.zip       a folder to carry to a machine without network
    python scripts/gpu_check.py --carried gpu_carry -o gpu_check         there, with all of that folder
    python scripts/gpu_check.py --data CORPUS.zip -o gpu_check           or where everything is installed
    python scripts/gpu_check.py --trial --device cpu|emulated            a small model on the sample: does it run?

The steps' encoder has BERT base's shape and random weights, which cost the same, and MiniLM's tokenizer (extra minilm),
which is BERT's. Parts run in the order of the plan. One that no longer fits into --seconds is left out and named; the
last is stopped when they are spent. OUT/table.md and OUT/figures.json are written anew after every row, so that what
was measured stays. With --beside another machine's figures.json (a CPU's) the runs' metrics are compared with it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT / "src")]
sys.path[:0] = PATHS
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])

EMULATED = "emulated" in sys.argv or os.environ.get("GPU_CHECK_DEVICE") == "emulated"
if EMULATED:  # it must be there before torch
    from support import cuda_without_cuda

import torch  # noqa: E402

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
HEADS = "none,layernorm,relu,layernorm_relu"
WHEELS = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "platformdirs")
"""What the program needs and the image with torch 2.11 does not have."""
MODEL_FILES = ("config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
LIMIT = 64 * 2**20
"""Bytes that travel to such a machine, those of the checkout among them."""
Row = tuple[str, str, str, str]


class TimeSpent(BaseException):
    """The seconds are over: raised by an alarm, wherever the check is then. What catches failures does not catch it."""


@dataclass
class Check:
    """One call: what it measures with, where its table goes, and until when."""

    device: str
    out: Path
    work: Path
    data: str | None
    minilm: str | None
    seconds: float
    trial: bool
    num_turns: int
    beside: dict[str, Any]
    product_rate: float = 0.0
    base: str = ""
    lines: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.seconds - (time.monotonic() - self.started)

    def say(self, row: Row) -> None:
        """Add a row, on the screen and on disk."""
        self.lines.append("| " + " | ".join(" ".join(cell.split()) for cell in row) + " |")
        print(self.lines[-1], flush=True)
        self.write()

    def write(self) -> None:
        (self.out / "table.md").write_text("\n".join(self.lines) + "\n", "utf-8")
        (self.out / "figures.json").write_text(json.dumps(self.figures, indent=2) + "\n", "utf-8")

    def setting(self, max_tokens: int = 512, batch_size: int = 32, dropout: float = 0.0) -> Any:
        """The encoder of BERT base's shape in bf16 on a GPU; in a trial a small one, and few tokens."""
        from setting import Setting

        precision = "fp32" if self.device == "cpu" else "bf16"
        given = (self.data, self.base, max_tokens, batch_size, dropout, str(self.work / "cache"))
        setting = Setting(*given, precision=precision)
        if self.trial:
            return replace(setting, max_tokens=max(8, max_tokens // 16), batch_size=max(2, batch_size // 16))
        return setting


# --- the parts ---


def product_rate(check: Check, num: int = 20) -> Iterator[Row]:
    """What a product of two large bf16 matrices reaches here, to read shares by."""
    size = 256 if check.trial else 8192
    with _mode():
        a, b = (torch.randn(size, size, device=_torch_device(check), dtype=torch.bfloat16) for _ in range(2))
        for _ in range(3):
            product = a @ b
        float(product[0, 0])
        started = time.perf_counter()
        for _ in range(num):
            product = a @ b
        float(product[0, 0])
    check.product_rate = num * 2 * size**3 / (time.perf_counter() - started)
    check.figures["product_rate"] = check.product_rate
    yield f"bf16 product, {size} × {size} × {size}", f"{check.product_rate / 1e12:.3g} TFLOP/s", "", ""


def own_steps(check: Check) -> Iterator[Row]:
    """Every kind of step, one after another in this process."""
    for recipe in ("study", "contrastive"):
        for max_tokens in (512, 128):
            for batch_size in (32, 256):
                for dropout in (0.0, 0.1):
                    yield _own_step(check, check.setting(max_tokens, batch_size, dropout), recipe)
    yield _own_step(check, check.setting(), "study", deterministic=True)


def _own_step(check: Check, setting: Any, recipe: str, deterministic: bool = False) -> Row:
    """Seconds of a step when one follows another, as in training: its losses are read in the end."""
    import our_way
    from setting import draw_triples

    from biencoder_ablate.encoder.device import TRAINING_FACTOR
    from biencoder_ablate.training.loop import make_optimizer, train_step
    from biencoder_ablate.utils.deterministic import deterministic_kernels

    name = f"{recipe}, {setting.max_tokens} tokens, batch {setting.batch_size}, dropout {setting.dropout:g}"
    if deterministic:
        name += ", training.deterministic=true"
    on_gpu = check.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    num_warm = 3
    with _mode(), deterministic_kernels(deterministic, _torch_device(check)):
        parts = our_way.build(setting, contrastive=recipe == "contrastive", device=_named(check))
        context = parts.context
        optimizer = make_optimizer(context.model, context.config)
        triples = draw_triples(context.index, setting.batch_size, num_warm + check.num_turns, setting.seed)
        batches = [our_way.as_pairs(each) for each in triples]
        context.model.train()
        for batch in batches[:num_warm]:
            losses, _ = train_step(context, optimizer, batch)
        losses.tolist()
        num_tokens, num_flops = 0, 0.0
        started = time.perf_counter()
        for batch in batches[num_warm:]:
            losses, (tokens, flops) = train_step(context, optimizer, batch)
            num_tokens += tokens
            num_flops += flops
        losses.tolist()
    seconds = time.perf_counter() - started
    rate = TRAINING_FACTOR * num_flops / seconds
    peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if on_gpu else ""
    share = rate / check.product_rate if check.product_rate else math.nan
    steps = check.num_turns / seconds
    tokens_per_second = num_tokens / seconds
    check.figures[f"step: {name}"] = {"steps_per_second": steps, "tokens_per_second": tokens_per_second, "share": share}
    measured = f"{steps:.3g} steps/s, {tokens_per_second:.0f} tokens/s{peak}"
    is_target = name.startswith("study, 512 tokens, batch 32, dropout 0")
    return f"step: {name}", measured, f"{share:.0%} of the product's rate", "≥ 50%" if is_target else ""


def other_ways(check: Check) -> Iterator[Row]:
    """The same triples by the direct way and by sentence-transformers, turn by turn."""
    import direct_way
    import our_way
    import sentence_transformers_way as library
    from alternate import Way, alternate, median_ratio, quiet_libraries

    if EMULATED:
        yield "other ways", "left out: they know nothing of the emulated device", "", ""
        return
    quiet_libraries()
    for max_tokens, batch_size in ((512, 32), (128, 32), (128, 256)):
        setting = check.setting(max_tokens, batch_size)
        given = (setting, check.num_turns, check.device)
        ways, targets = [Way("ours", our_way.training, given)], []
        if batch_size == 32:  # of more its memory is that of no GPU
            ways.append(Way("direct way, fp32", direct_way.training, given))
            targets.append("≥ 10")
        if library.is_installed():
            ways.append(Way("sentence-transformers' trainer, bf16", library.training, given))
            targets.append("≥ 2")
        elif importlib.util.find_spec("sentence_transformers"):
            ways.append(Way("sentence-transformers' loss, bf16", library.plain_training, given))
            targets.append("≥ 2")
        seconds = alternate(ways, range(check.num_turns), num_warm=min(3, check.num_turns - 1))
        ours, *others = seconds.items()
        for (other, theirs), target in zip(others, targets, strict=True):
            ratio, low, high = median_ratio(theirs, ours[1])
            name = f"{setting.max_tokens} tokens, batch {setting.batch_size}, no dropout: {other}"
            check.figures[f"beside: {name}"] = ratio
            measured = f"{statistics.median(theirs):.3g} s; ours {statistics.median(ours[1]):.3g} s"
            yield name, measured, f"{ratio:.3g} ({low:.3g} to {high:.3g})", target


def arguana(check: Check) -> Iterator[Row]:
    """The preset that trains all of MiniLM, seed 0."""
    run, seconds = _run(check, *_preset(check, "arguana"), "head=none")
    last = _records(run)[-1]
    share = last.get("flop_utilisation")
    shown = "" if share is None else f", {share:.1%} of the data sheet's rate"
    yield "experiment=arguana, whole command", f"{seconds:.3g} s", "", "≤ 60 s"
    measured = f"{last['train_seconds']:.3g} s, {last['tokens_per_second']:.0f} tokens/s{shown}"
    yield "its second epoch's training", measured, "", ""
    yield "its ranking of all splits", f"{last['eval_seconds']:.3g} s", "", ""
    yield _metrics(check, "arguana", run)


def frozen(check: Check) -> Iterator[Row]:
    """Four heads over the frozen encoder, seed 0."""
    given = [*_preset(check, "arguana_frozen"), "sweep_name=frozen", f"head={HEADS}"]
    _, seconds = _program(check, "-m", *given)
    yield "experiment=arguana_frozen, four heads", f"{seconds:.3g} s", "", ""
    for name, run in _runs_of(check, "frozen"):
        yield _metrics(check, f"frozen {name}", run)


def finetuned(check: Check) -> Iterator[Row]:
    """Four heads over the encoder that `arguana` has trained, seed 0."""
    trained, _ = _run(check, *_preset(check, "arguana"), "head=none")
    _, seconds = _program(check, *_preset(check, "heads_finetuned"), f"model.finetuned={trained}", "seed=0")
    yield "experiment=heads_finetuned, four heads, one seed", f"{seconds:.3g} s", "", ""
    for name, run in _runs_of(check, "heads_finetuned"):
        yield _metrics(check, f"finetuned {name}", run)


def equal_bits(check: Check) -> Iterator[Row]:
    """The same run twice, with and without deterministic kernels: sha256 of all trained weights, and the losses."""
    for deterministic in ("true", "false"):
        seen, seconds = [], []
        for _ in range(2):
            given = [*_preset(check, "arguana"), "head=none", "training.epochs=1", "data.limit=40", "rerun=true"]
            run, _ = _run(check, *given, f"training.deterministic={deterministic}")
            weights = sorted(run.glob("model/**/*.safetensors"))
            digest = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()[:16]
            seen.append((digest, _records(run)[-1]["loss"]))
            seconds.append(_records(run)[-1]["train_seconds"])
        found = "equal bits" if seen[0] == seen[1] else f"different bits, losses {seen[0][1]!r} and {seen[1][1]!r}"
        check.figures[f"deterministic={deterministic}"] = {"seen": seen, "train_seconds": seconds}
        target = "equal bits" if deterministic == "true" else ""
        yield f"two runs, training.deterministic={deterministic}", found, f"{min(seconds):.3g} s an epoch", target


@dataclass(frozen=True)
class Part:
    """A part of the check, and the seconds that it is given."""

    name: str
    seconds: int
    rows: Callable[[Check], Iterator[Row]]


PLAN = (
    Part("product", 15, product_rate),
    Part("steps", 130, own_steps),
    Part("arguana", 70, arguana),
    Part("bits", 70, equal_bits),
    Part("other", 110, other_ways),
    Part("frozen", 60, frozen),
    Part("finetuned", 85, finetuned),
)
"""540 seconds of a command of 600. With two minutes to start a machine and to carry files, and one to give it back, two
of fifteen minutes are left to measure again what failed, by --only."""


# --- runs of the program ---


def _preset(check: Check, name: str) -> list[str]:
    given = [f"experiment={name}", f"training.device={_named(check)}", f"logs_dir={check.work / 'logs'}"]
    given += [f"cache_dir={check.work / 'cache'}"]
    if check.trial:
        given += ["data=sample", "model=minilm", f"model.name_or_path={check.base}", "model.max_tokens=32"]
        given += ["training.epochs=1", "data.limit=3"]
    else:
        given += [f"data.path={check.data}"]
        if check.minilm is not None:
            given += [f"model.name_or_path={check.minilm}"]
    return given


def _program(check: Check, *arguments: str) -> tuple[str, float]:
    """What the program printed and how long it took, in a process of its own."""
    environment = os.environ | {"GPU_CHECK_DEVICE": "emulated" if EMULATED else ""}
    command = [sys.executable, __file__, "--program", *arguments]
    started = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=check.work)
    if ended.returncode != 0:
        said = f"{ended.stdout}\n{ended.stderr}".strip().splitlines()
        raise RuntimeError(f"{' '.join(arguments[:2])} …: {said[-1] if said else 'no word'}")
    return ended.stdout, time.perf_counter() - started


def _run(check: Check, *overrides: str) -> tuple[Path, float]:
    """The directory of a run, and the seconds of its command."""
    shown, seconds = _program(check, *overrides)
    for line in reversed(shown.splitlines()):
        for word in line.split():
            # Of a run that had finished already the program gives the name alone.
            run = check.work / "logs" / "runs" / Path(word.strip(",;:")).name
            if run.name.count("_") >= 2 and run.is_dir():
                return run, seconds
    raise RuntimeError("the program named no run")


def _runs_of(check: Check, sweep: str) -> list[tuple[str, Path]]:
    """Heads and directories of a sweep's runs."""
    listed = json.loads((check.work / "logs" / "sweeps" / sweep / "runs.json").read_text("utf-8"))
    found = []
    for job in listed["jobs"]:
        run = check.work / "logs" / "runs" / job["name"]
        found.append((job["name"].partition("_neg")[0], run))
    return found


def _records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def _metrics(check: Check, name: str, run: Path) -> Row:
    """A run's metrics, and by how much they differ from the other machine's."""
    result = json.loads((run / "result.json").read_text("utf-8"))
    keys = [(split, key) for split in ("val", "test") for key in ("top1", "top1_clean")]
    found = {f"{split} {key}": result[split][key] for split, key in keys}
    check.figures[f"metrics: {name}"] = found
    shown = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
    other = check.beside.get(f"metrics: {name}")
    beside = "" if other is None else ", ".join(f"{found[key] - value:+.4f}" for key, value in other.items())
    return f"metrics of {name}, seed 0", shown, beside and f"minus the other machine's: {beside}", ""


# --- devices ---


def _named(check: Check) -> str:
    """What training.device is to be."""
    return "cuda" if check.device == "emulated" else check.device


def _torch_device(check: Check) -> torch.device:
    return torch.device("cuda", 0) if _named(check) == "cuda" else torch.device(check.device)


_emulated_mode: Any = None


def _mode() -> contextlib.AbstractContextManager[Any]:
    """Inside of it the emulated device works; nothing on a real one."""
    global _emulated_mode
    if not EMULATED:
        return contextlib.nullcontext()
    if _emulated_mode is None:
        cuda_without_cuda.emulate()
        _emulated_mode = cuda_without_cuda.EmulatedCuda()
    return _emulated_mode


def program(arguments: list[str]) -> None:
    """The program itself, on the emulated device where that is asked for."""
    from biencoder_ablate.cli.main import main as of_program

    sys.argv[1:] = arguments
    with _mode():
        of_program()


# --- what is carried ---


def save_random_bert(directory: Path, shape: dict[str, int], minilm: Path) -> Path:
    """A BERT of that shape with random weights, saved with MiniLM's tokenizer."""
    from transformers import BertConfig, BertModel

    directory.mkdir(exist_ok=True)
    torch.manual_seed(0)
    BertModel(BertConfig(**shape)).save_pretrained(directory)
    for name in MODEL_FILES[1:]:
        if (minilm / name).is_file():
            shutil.copyfile(minilm / name, directory / name)
    return directory


def find_minilm() -> Path:
    """MiniLM's directory, as the program finds it."""
    from biencoder_ablate.config.schema import Config, ModelConfig, cache_directory
    from biencoder_ablate.encoder.pretrained import MINILM_NAME, find_model

    return find_model(ModelConfig("minilm", MINILM_NAME), cache_directory(Config())).directory


def pack(folder: Path, data: str | None) -> int:
    """Put together what a machine without network needs, and say what it weighs."""
    from safetensors.torch import load_file, save_file

    minilm = find_minilm()
    (folder / "minilm").mkdir(parents=True, exist_ok=True)
    weights = load_file(minilm / "model.safetensors")
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(half, folder / "minilm" / "model.safetensors", metadata={"format": "pt"})
    for name in MODEL_FILES:
        if (minilm / name).is_file():
            shutil.copyfile(minilm / name, folder / "minilm" / name)
    if data is not None:
        shutil.copyfile(data, folder / "corpus.zip")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    wheel += [f"{name}=={metadata.version(name)}" for name in WHEELS]  # as tested here
    subprocess.run(wheel, check=True)

    total = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total += path.stat().st_size
            print(f"{path.stat().st_size / 2**20:8.2f} MiB  {path.relative_to(folder)}")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    of_checkout = sum((ROOT / os.fsdecode(name)).stat().st_size for name in tracked if name)
    both = total + of_checkout
    print(f"{total / 2**20:8.2f} MiB  in all; {both / 2**20:.2f} with the checkout, of {LIMIT / 2**20:.0f}")
    print("there: python3 -m pip install --no-index --no-deps", f"{folder.name}/*.whl", "&&")
    print("       python3 scripts/gpu_check.py --carried", folder.name, '--seconds 540 -o "$OUT"')
    return 0 if both <= LIMIT else 1


def unpack(carried: Path, work: Path) -> str:
    """MiniLM in float32 again, which takes no memory on the way."""
    from safetensors.torch import load_file, save_file

    minilm = work / "minilm"
    shutil.copytree(carried / "minilm", minilm, dirs_exist_ok=True)
    weights = load_file(carried / "minilm" / "model.safetensors")
    exact = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(exact, minilm / "model.safetensors", metadata={"format": "pt"})
    return str(minilm)


# --- the whole ---


def _time_is_spent(*_: object) -> None:
    raise TimeSpent


def measure(check: Check, parts: list[Part]) -> None:
    """Part after part, as far as the seconds go. A part that fails is a row, and the next one begins."""
    for part in parts:
        if check.left < part.seconds / 2:
            check.say((part.name, f"left out: {check.left:.0f} s left of {check.seconds:.0f}", "", ""))
            continue
        began = time.monotonic()
        try:
            for row in part.rows(check):
                check.say(row)
        except TimeSpent:
            check.say((part.name, "stopped: the time was spent", "", ""))
            return
        except Exception as error:
            check.say((part.name, f"failed: {type(error).__name__}: {str(error)[-400:]}", "", ""))
        taken = time.monotonic() - began
        check.figures.setdefault("seconds", {})[part.name] = round(taken, 1)
        print(f"({part.name}: {taken:.0f} s of {part.seconds} planned, {check.left:.0f} s left)", flush=True)
        check.write()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PLAN]
    parser.add_argument("--plan", action="store_true", help="print the plan and go")
    parser.add_argument("--pack", metavar="DIR", type=Path, help="put together what is carried, and go")
    parser.add_argument("--carried", metavar="DIR", type=Path, help="what --pack has put together")
    parser.add_argument("--data", help="the ArguAna Counterargs corpus")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu_check"), help="for the table (%(default)s)")
    parser.add_argument("--work", type=Path, help="for runs and cache (default: a temporary directory)")
    parser.add_argument("--seconds", type=float, default=540.0, help="to spend (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--beside", type=Path, help="another machine's figures.json")
    parser.add_argument("--num-turns", type=int, default=12, help="steps of each kind (%(default)s)")
    parser.add_argument("--device", choices=["cuda", "cpu", "emulated"], help="default: cuda")
    parser.add_argument("--trial", action="store_true", help="a small model on the sample")
    return parser.parse_args()


def main() -> int:
    arguments = _parse()
    if arguments.plan:
        for part in PLAN:
            first_line = (part.rows.__doc__ or "").splitlines()[0]
            print(f"{part.seconds:4} s  {part.name:10} {first_line}")
        print(f"{sum(part.seconds for part in PLAN):4} s")
        return 0
    if arguments.pack is not None:
        return pack(arguments.pack, arguments.data)
    device = arguments.device or "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("error: there is no CUDA device here; --trial --device cpu runs a small model", file=sys.stderr)
        return 1
    if arguments.carried is not None:
        arguments.data = str(arguments.carried / "corpus.zip")
    if arguments.data is None and not arguments.trial:
        print("error: --data or --carried must name the corpus; --trial takes the sample", file=sys.stderr)
        return 1
    arguments.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGALRM, _time_is_spent)
    signal.setitimer(signal.ITIMER_REAL, arguments.seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the table is on disk, the temporary directory goes
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        work = work.resolve()
        check = Check(
            device=device,
            out=arguments.output.resolve(),
            work=work,
            data=None if arguments.trial else os.path.abspath(arguments.data),
            minilm=None if arguments.carried is None else unpack(arguments.carried, work),
            seconds=arguments.seconds,
            trial=arguments.trial,
            num_turns=arguments.num_turns,
            beside={} if arguments.beside is None else json.loads(arguments.beside.read_text("utf-8")),
        )
        minilm = find_minilm() if check.minilm is None else Path(check.minilm)
        check.base = str(save_random_bert(work / "base", SMALL if check.trial else BASE, minilm))
        with _mode():
            name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
        check.lines += [f"{name}, torch {torch.__version__}", "", "| what | measured | beside | target |"]
        check.lines.append("|---|---|---|---|")
        print("\n".join(check.lines), flush=True)
        wanted = {"product", *arguments.only} if "steps" in arguments.only else set(arguments.only)
        with contextlib.suppress(TimeSpent):
            measure(check, [part for part in PLAN if part.name in wanted])
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--program"]:
        program(sys.argv[2:])
    sys.exit(main())
