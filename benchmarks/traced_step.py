"""A training step of BERT base on a GPU, traced by shapes alone: what it launches, waits for and holds. No GPU needed.

    python benchmarks/traced_step.py --data arguana-counterargs-corpus.zip

Each row is a step of 32 pairs whose number of tokens is the median of an epoch's. Counts are of the very code that
trains, on the emulated device of tests/support/cuda_without_cuda.py; seconds are a model's, with the rates below, and
were measured on no GPU. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from support import cuda_without_cuda as emulated  # isort: skip  # noqa: E402 (before torch)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

from biencoder_ablate.config.compose import load_config  # noqa: E402
from biencoder_ablate.config.schema import ModelConfig, cache_directory  # noqa: E402
from biencoder_ablate.encoder.device import TRAINING_FACTOR  # noqa: E402
from biencoder_ablate.encoder.pretrained import MINILM_NAME, find_model, load_tokenizer  # noqa: E402
from biencoder_ablate.encoder.texts import EVAL_TOKEN_BUDGET, TRAIN_TOKEN_BUDGET, EncodedTexts, packed_encoder  # noqa: E402
from biencoder_ablate.encoder.tokens import tokenize  # noqa: E402
from biencoder_ablate.model.biencoder import BiEncoder  # noqa: E402
from biencoder_ablate.training.loop import AsyncCopy, Pairs, TrainingContext, make_optimizer, train_step  # noqa: E402
from biencoder_ablate.training.plan import architecture_of, make_loss, read_data  # noqa: E402

PEAK, PRODUCTS, BANDWIDTH, KERNEL = 989.4e12, 560e12, 2.55e12, 2.5e-6
"""An H100's: bf16 operations a second by its data sheet; what its products and its memory are taken to reach; seconds
of the smallest kernel."""
ATTENTION = {"_flash_attention_forward": 150e12, "_flash_attention_backward": 100e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the ArguAna Counterargs corpus (default: the sample)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--ops", action="store_true", help="list each step's ops as well")
    arguments = parser.parse_args()
    emulated.emulate()
    data = [f"data.path={arguments.data}", "data=arguana"] if arguments.data else ["data=sample"]
    print("| step | tokens | host waits | blocking uploads | uploads | launching calls | peak GiB | TFLOP | "
          "share of an H100, predicted |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for recipe in ("contrastive", "study"):
        for more in (["model.dropout=0.1"], ["model.dropout=0"], ["model.dropout=0.1", "training.micro_batch=auto"]):
            given = [*data, f"recipe={recipe}", f"loss={recipe}", f"training.batch_size={arguments.batch_size}", *more]
            print(f"| {recipe}, {', '.join(more)} | {' | '.join(trace(given, arguments.ops))} |", flush=True)


def trace(overrides: list[str], list_ops: bool) -> list[str]:
    """The figures of one step, the third."""
    config = load_config(["model=minilm", "model.max_tokens=512", "model.pooling=pooler", *overrides])
    data = read_data(config)
    tokenizer = load_tokenizer(find_model(ModelConfig("minilm", MINILM_NAME), cache_directory(config)).directory, 512)
    tokens = tokenize(tokenizer, data.index.texts, 512)
    device, dropout = torch.device("cuda", 0), config.model.dropout
    bert = BertConfig(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, attn_implementation="sdpa")
    mode = emulated.EmulatedCuda(shapes_only=True)
    with mode:
        with torch.device("meta"):
            encoder = BertModel(bert).train()
        model = BiEncoder(architecture_of(config, bert.hidden_size), encoder).to(device)
        budgets = TRAIN_TOKEN_BUDGET["cuda"], EVAL_TOKEN_BUDGET["cuda"]
        texts = EncodedTexts(encoder, packed_encoder(encoder, "pooler"), tokens, device, "bf16", *budgets)
        context = TrainingContext(config, model, texts, data.index, data.splits, data.pool, make_loss(config), device)
        optimizer = make_optimizer(model, config)
        pairs = median_batch(context, tokens.lengths)
        for _ in range(3):
            before = mode.calls, mode.waits.copy(), mode.blocking.copy(), mode.uploads.copy(), mode.ops.copy()
            mode.trace.clear()
            mode.peak = mode.held
            losses, (num_tokens, flops) = train_step(context, optimizer, pairs)
            AsyncCopy(losses).get()
    waits, blocking, uploads = (sum((after - old).values()) for after, old in zip(
        (mode.waits, mode.blocking, mode.uploads), before[1:4], strict=True))  # fmt: skip
    if list_ops:
        print(mode.ops - before[4])
    share = TRAINING_FACTOR * flops / seconds(mode.trace, flops, bert, tokens.lengths, pairs) / PEAK
    return [
        str(num_tokens), str(waits), str(blocking), str(uploads), str(mode.calls - before[0]),
        f"{mode.peak / 2**30:.1f}", f"{TRAINING_FACTOR * flops / 1e12:.1f}", f"{share:.0%}",
    ]  # fmt: skip


def median_batch(context: TrainingContext, lengths: np.ndarray) -> Pairs:
    """Of an epoch's batches with negatives drawn uniformly, the one with the median of tokens."""
    train, size, random = context.splits["train"].split, context.config.training.batch_size, np.random.default_rng(0)
    negative = context.pool.text[random.integers(context.pool.size, size=(len(train), 1))]
    pairs = Pairs(np.arange(len(train)), train.point, train.counter, negative)
    rows = random.permutation(len(train))[: len(train) // size * size].reshape(-1, size)
    batches = [pairs.map(lambda of, some=some: of[some]) for some in rows]
    sizes = [
        lengths[np.unique(np.concatenate([some.point, some.counter, some.negative[:, 0]]))].sum() for some in batches
    ]
    return batches[int(np.argsort(sizes)[len(sizes) // 2])]


def seconds(
    trace: list[tuple[str, int, int]], flops: float, bert: BertConfig, lengths: np.ndarray, pairs: Pairs
) -> float:
    """What the traced step would take by the rates above: products and attention by operations, the rest by bytes."""
    of_text = lengths[np.unique(np.concatenate([pairs.point, pairs.counter, pairs.negative[:, 0]]))].astype(float)
    in_attention = 4 * bert.hidden_size * float((of_text**2).sum())  # of one layer's forward pass
    total = 0.0
    for name, size, product in trace:
        if name in ATTENTION:
            total += in_attention * (1 if name.endswith("forward") else 2.5) / ATTENTION[name]
        elif product:
            total += max(product / PRODUCTS, size / BANDWIDTH, KERNEL)
        else:
            total += max(size / BANDWIDTH, KERNEL)
    return total


if __name__ == "__main__":
    main()
