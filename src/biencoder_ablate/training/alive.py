"""Whether each part of a trained model is alive: its gradients, its weights, what the model loses without it; in
result.json and in words. Beside it what the model costs to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from biencoder_ablate.evaluation.bypass import measure_bypasses
from biencoder_ablate.evaluation.protocols import SplitRankings
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.model.costs import bytes_a_text, operations_a_pair
from biencoder_ablate.runs.parts import changes_no_ranking, is_untrained
from biencoder_ablate.runs.records import Record
from biencoder_ablate.training.loop import TrainingContext

# --- the result ---


def parts_result(
    context: TrainingContext,
    embeddings: Embeddings,
    rankings: Mapping[str, SplitRankings],
    records: Sequence[Record],
    best: int,
) -> Record:
    """What result.json says of each part, by name: its weights, its operations a pair, what the records up to the
    selected epoch say of its gradients, and the splits of `rankings`, which are the whole model's, with it bypassed
    (nothing before the first epoch)."""
    watch = context.watch
    assert watch is not None
    evaluation = context.config.evaluation
    operations = operations_a_pair(context.model, watch.parts)
    bypasses: Mapping[str, Any] = {}
    if best >= 0:
        fast = context.config.training.fast
        bypasses = measure_bypasses(
            context.model, watch.parts, watch.start, embeddings, rankings, evaluation.rerank, fast
        )

    trained = [record for record in records if 0 <= record["epoch"] <= best]
    found: Record = {}
    for part in watch.parts:
        key = f"parts/{part.name}"
        last = trained[-1] if trained else {}
        found[part.name] = {
            "words": part.words,
            "weights": part.num_weights,
            "operations": operations["total"] if part.name == "head" else operations.get(part.name),
            "gradient_share": _mean(trained, f"{key}/gradient_share"),
            "change": last.get(f"{key}/change"),
            "acted_share": _mean(trained, f"{key}/acted_share"),
            "bypass": part.bypass,
            "bypassed": bypasses.get(part.name),
        }
    return found


def costs_result(context: TrainingContext) -> Record:
    """What result.json says a model costs to use: operations of stage 2 a pair, and bytes of the index a text."""
    watch = context.watch
    assert watch is not None
    reranks = context.config.evaluation.rerank not in ("none", 0)
    operations = operations_a_pair(context.model, watch.parts)["total"]
    return {
        "operations_a_pair": operations if reranks else 0,
        "bytes_a_text": bytes_a_text(context.model, reranks),
    }


def _mean(records: Sequence[Record], key: str) -> float | None:
    """The mean over the epochs that have it; None where none has, as in a run begun by an older version."""
    values = [record[key] for record in records if record.get(key) is not None]
    return float(np.mean(values)) if values else None


# --- in words ---


def warnings_of_parts(result: Mapping[str, Any]) -> list[str]:
    """What looks wrong with the parts of a finished run, each with what to look at; nothing without such records."""
    messages = []
    for name, part in (result.get("parts") or {}).items():
        said = f"the {part['words']} ({name})" if name != part["words"] else f"the {name}"
        problem = is_untrained(part)
        if problem:
            messages.append(f"{said} {problem}: what it would be worth if it were trained is not known")
        elif changes_no_ranking(part):
            never = "never acted" if part.get("acted_share") == 0 else "does nothing here"
            messages.append(f"{said} {never}: bypassing it changes no ranking of val and test")
    return messages
