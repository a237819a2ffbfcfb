"""Among which texts an answer is looked for: what the settings come to on a corpus, and what a finished run measured.

A run is named by what they come to, so that null and the same thing said out loud are one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from biencoder_ablate.config.schema import Config, ConfigError
from biencoder_ablate.data.corpus import Corpus

IN_WORDS = {"answers": "among the answers", "all": "among answers and points"}
"""How a report says what was ranked."""


def resolve_candidates(config: Config, corpus: Corpus) -> Config:
    """The config with evaluation.candidates and negatives.pool as what they come to on the corpus: answers or all.

    Raises ConfigError where documents are the candidates and `all` is asked for, or where the source study's figure is
    asked for without its candidates.
    """
    evaluation, negatives = config.evaluation, config.negatives
    candidates = evaluation.candidates or corpus.candidates
    if corpus.documents:
        if evaluation.candidates == "all":
            raise ConfigError(
                f"evaluation.candidates=all: the documents of data={corpus.name} are its candidates, and its queries "
                "are none; must be null or answers"
            )
        candidates = "answers"
    elif evaluation.source and candidates == "answers":
        raise ConfigError(
            "evaluation.source=true: the source study ranked counters and points; needs evaluation.candidates=all"
        )
    return replace(
        config,
        evaluation=replace(evaluation, candidates=candidates),
        negatives=replace(negatives, pool=negatives.pool or candidates),
    )


def measured_candidates(identity: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What a finished run ranked, answers or all, by the identity in its manifest and its result.json.

    A run from before the setting ranked all texts of a split, or documents, of which it measured no tasks.
    """
    evaluation = identity.get("evaluation")
    named = evaluation.get("candidates") if isinstance(evaluation, Mapping) else None
    if named is not None:
        return str(named)
    test = result.get("test") or {}
    return "answers" if test.get("tasks") == {} else "all"
