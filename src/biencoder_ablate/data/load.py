"""One door to the three corpora: from plain settings to a Corpus."""

from __future__ import annotations

from biencoder_ablate.config import DataConfig
from biencoder_ablate.data.corpus import Corpus, limit_debates, make_disjoint


def load_corpus(settings: DataConfig) -> Corpus:
    """Load, then make disjoint, then shorten, as asked. Raises DataError."""
    if settings.name == "sample":
        from biencoder_ablate.data.sample import load_sample

        corpus = load_sample(settings.split_seed)
    elif settings.name == "arguana":
        from biencoder_ablate.data.arguana import load_arguana

        assert settings.path is not None
        corpus = load_arguana(settings.path)
    else:
        from biencoder_ablate.data.table import load_table

        assert settings.path is not None
        corpus = load_table(settings.path, settings.split_seed)
    if settings.disjoint:
        corpus = make_disjoint(corpus)
    if settings.limit is not None:
        corpus = limit_debates(corpus, settings.limit)
    return corpus
