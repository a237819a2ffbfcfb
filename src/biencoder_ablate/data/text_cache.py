"""A test split's texts in the cache directory, under the corpus's fingerprint: a run leaves them there for its reports.

A report shows some of them, and must know which debates are one under several names, also where the corpus has gone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.utils.cache import load_entry, save_entry

MOST_CHARACTERS = 20_000_000
"""Characters of a test split up to which it is kept."""
_FOLDER = "texts-2"
"""Where in the cache directory; counted up when what is kept changes."""


@dataclass(frozen=True)
class SplitTexts:
    """The test split's texts by candidate name (…#point, …#counter), or why there are none.

    `cluster_of` names the first of the debates that a debate shares a folded text with, directly or through others:
    they are one debate under several names.
    """

    by_name: Mapping[str, str]
    problem: str = ""
    cluster_of: Mapping[str, str] = field(default_factory=dict)


def cached_texts(cache: Path, fingerprint: str) -> SplitTexts | None:
    """The texts of the corpus with this fingerprint, or None where they are not kept."""

    def read(path: Path) -> SplitTexts:
        return SplitTexts(**json.loads(path.read_text("utf-8")))

    return load_entry(_entry(cache, fingerprint), read)


def cache_texts(
    cache: Path,
    fingerprint: str,
    corpus: Corpus,
) -> SplitTexts:
    """The texts of a corpus, which are then kept, unless they are many or the cache cannot be written to."""
    # Documents are shared by all debates, so that only the points tell which debates are one.
    kinds = ("point",) if corpus.documents else ("point", "counter")
    held = []
    for pair in corpus.test:
        held += [(pair.debate, corpus.keys[getattr(pair, kind)]) for kind in kinds]
    texts = SplitTexts(dict(corpus.named_texts("test")), cluster_of=joined_debates(held))

    if sum(map(len, texts.by_name.values())) <= MOST_CHARACTERS:
        content = json.dumps(
            {
                "by_name": texts.by_name,
                "cluster_of": texts.cluster_of,
            }
        )
        with contextlib.suppress(OSError):
            save_entry(_entry(cache, fingerprint), lambda file: file.write(content.encode()))
    return texts


def _entry(cache: Path, fingerprint: str) -> Path:
    return cache / _FOLDER / f"{fingerprint[:32]}.json"


def joined_debates(held: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Debate → the first debate of its cluster, from (debate, text it holds).

    A union-find whose roots are always the earliest debate of their cluster.
    """
    parent: dict[str, str] = {}
    place: dict[str, int] = {}  # debate → when it was first seen
    holder: dict[str, str] = {}  # text → the first debate that holds it

    def root(debate: str) -> str:
        while parent[debate] != debate:
            debate = parent[debate]
        return debate

    # A text joins its holders' clusters under the earlier of their roots.
    for debate, text in held:
        parent.setdefault(debate, debate)
        place.setdefault(debate, len(place))
        roots = [root(debate), root(holder.setdefault(text, debate))]
        first, second = sorted(roots, key=place.__getitem__)
        parent[second] = first
    return {debate: root(debate) for debate in parent}
