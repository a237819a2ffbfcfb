"""sentence-transformers trains the same encoder with its own in-batch loss on the same pairs: what to beat.

    python benchmarks/sentence_transformers_training.py --data CORPUS.zip --epochs 3 --bf16 -o st.csv

MultipleNegativesRankingLoss over the distinct training pairs, its own batches without duplicates, linear decay from
5e-5, mean pooling, dropout the checkpoint's own; ranked by cosine with this project's candidates. The csv has a line
a clean point (system, seed, query, value, group: value 1 where the counter comes first): what `report --from` reads;
st_official.csv beside it all points. Figures of val and test are printed, and kept in st.json. Needs the `benchmarks`
extra.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sentence_transformers_way import make_model
from setting import Setting

from biencoder_ablate.data.text_table import SplitArrays, TextTable
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.protocols import final_rankings, point_records, split_metrics
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.utils.files import write_json


def train(setting: Setting, pairs: SplitArrays, texts: tuple[str, ...], epochs: int, bf16: bool, mined: bool) -> Any:
    """The encoder after `epochs` over the distinct pairs; with `mined` each pair gets one negative by its miner."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import mine_hard_negatives

    torch.manual_seed(setting.seed)
    model = make_model(setting)
    distinct = dict.fromkeys(zip(pairs.point.tolist(), pairs.counter.tolist(), strict=True))
    rows = {"anchor": [texts[i] for i, _ in distinct], "positive": [texts[j] for _, j in distinct]}
    dataset = Dataset.from_dict(rows)
    if mined:
        pool = sorted({texts[i] for pair in distinct for i in pair})
        dataset = mine_hard_negatives(
            dataset, model, corpus=pool, range_min=1, range_max=5, num_negatives=1, sampling_strategy="random"
        )
    with tempfile.TemporaryDirectory() as directory:
        given = SentenceTransformerTrainingArguments(
            output_dir=directory,
            num_train_epochs=epochs,
            per_device_train_batch_size=setting.batch_size,
            batch_sampler="no_duplicates",
            learning_rate=5e-5,
            lr_scheduler_type="linear",
            weight_decay=0.01,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=setting.seed,
            bf16=bf16,
        )
        loss = MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model=model, args=given, train_dataset=dataset, loss=loss).train()
    return model


def embed(model: Any, index: TextTable, bf16: bool) -> Embeddings:
    """The model's own embeddings of all texts, compared by cosine."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        h = model.encode(list(index.texts), convert_to_tensor=True, show_progress_bar=False).float()
    space = torch.nn.functional.normalize(h, dim=1)
    return Embeddings(h, space, space)


def measure(embeddings: Embeddings, index: TextTable, split: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures and points' records of a split."""
    rankings = final_rankings(build_task(index.splits[split]), embeddings, None, "none")
    return split_metrics(rankings), point_records(rankings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--mined", action="store_true", help="one hard negative a pair, by its own miner")
    parser.add_argument("-o", "--output", required=True)
    given = parser.parse_args()
    system = f"sentence-transformers{' mined' if given.mined else ''}"
    output = Path(given.output)
    lines: dict[str, list[list[Any]]] = {"clean_rank": [], "rank": []}
    seen: dict[int, dict[str, Any]] = {}
    for seed in given.seeds:
        setting = Setting(given.data, max_tokens=given.max_tokens, batch_size=given.batch_size, dropout=None, seed=seed)
        index = setting.table()
        started = time.perf_counter()
        model = train(setting, index.splits["train"], index.texts, given.epochs, given.bf16, given.mined)
        seconds = time.perf_counter() - started
        embeddings = embed(model, index, given.bf16)
        for split in ("val", "test"):
            figures, records = measure(embeddings, index, split)
            shown = " ".join(f"{key} {figures[key]:.4f}" for key in ("top1", "top1_clean", "mrr", "recall@10"))
            print(f"{system} seed {seed} {split}: {shown} ({seconds:.0f} s of training)", flush=True)
            seen.setdefault(seed, {})[split] = figures
        for rank, path in (("clean_rank", output), ("rank", output.with_stem(f"{output.stem}_official"))):
            lines[rank] += [
                [system, seed, record["id"], int(record[rank] == 1), record["debate"]]
                for record in records
                if record[rank] is not None
            ]
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["system", "seed", "query", "value", "group"], *lines[rank]])
        write_json(output.with_suffix(".json"), {"system": system, "seeds": seen})


if __name__ == "__main__":
    main()
