"""Slow, plain references for what docs/evaluation.md defines: sorted lists and loops, no arrays of the program's own.

Written from the design's words alone, so that a misreading in the program and one here would have to be the
same misreading to pass unseen. A text's embeddings, as a point and as a candidate, are tuples of whole numbers:
distances are then exact, and equal ones are equal.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from biencoder_ablate.data.corpus import SPLITS, Corpus, DataError, Pair, build_corpus, limit_debates, make_disjoint
from biencoder_ablate.model import biencoder
from biencoder_ablate.model.heads import head_score, is_dead


@dataclass(frozen=True)
class Embeddings:
    """Of every text: as a point, and as a candidate."""

    point: Mapping[str, Sequence[float]]
    candidate: Mapping[str, Sequence[float]]


def of_texts(texts: Sequence[str], found: biencoder.Embeddings) -> Embeddings:
    """The program's embeddings of texts, for the reference."""
    point, candidate = (dict(zip(texts, r.double().tolist(), strict=True)) for r in (found.point, found.candidate))
    return Embeddings(point, candidate)


def in_both_roles(r: torch.Tensor) -> biencoder.Embeddings:
    """The program's embeddings of texts that are the same as point and as candidate, and as h."""
    return biencoder.Embeddings(r, r, r)


Score = Callable[[str, str], tuple[float, float]]
"""(point, candidate) → (logit₀, logit₁)."""

TASKS = ("sdoc", "sdc", "sdoa", "sda", "stc", "sta", "epc", "epa")


def same(a: str, b: str) -> bool:
    """Equal after folding case, space and punctuation."""
    return fold(a) == fold(b)


def fold(text: str) -> str:
    """What docs/evaluation.md says of equal texts, a character at a time."""
    raised = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
    plain = ""
    before = ""
    for letter in text:
        if letter in raised and before not in list(raised):
            plain += "^"
        if unicodedata.decomposition(letter).startswith("<fraction>"):
            plain += " "
        plain += "'" if letter == "´" else letter
        before = letter

    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())
    letters = list(unicodedata.normalize("NFKC", "".join(map(fold_letter, plain))))

    def letter_at(place: int) -> str:
        return letters[place] if 0 <= place < len(letters) else " "

    def in_number(place: int) -> bool:
        return letter_at(place - 1).isdecimal() and letter_at(place + 1).isdecimal()

    letters = [letter for place, letter in enumerate(letters) if letter != "'" or in_number(place)]

    def begins(place: int) -> bool:
        return letter_at(place - 1).isspace() or letter_at(place - 1) in "$€£¥#&@/^+<=>~|"

    folded = ""
    for place, letter in enumerate(letters):
        then = letter_at(place + 1)
        stays = letter not in ".,:-" or in_number(place)
        if letter == "-" and begins(place):
            stays = then.isdecimal() or (then == "." and letter_at(place + 2).isdecimal())
        if letter == "." and then.isdecimal():
            stays = stays or begins(place) or (letter_at(place - 1) == "-" and begins(place - 1))
        folded += letter if stays else " "
    return " ".join(folded.split()) or text


def fold_letter(letter: str) -> str:
    """Where nothing is known of its neighbours: white space for most punctuation, nothing for what is not seen."""
    category, name = unicodedata.category(letter), unicodedata.name(letter, "")
    if (
        (category == "Cf" and not name.startswith("TAG "))
        or "VARIATION SELECTOR" in name
        or name == "COMBINING GRAPHEME JOINER"
    ):
        return ""
    if letter in "'`‘’‚‛‹›":
        return "'"
    if category == "Pd" or name == "MINUS SIGN":
        return "-"
    if name in ("FRACTION SLASH", "DIVISION SLASH"):
        return "/"
    if name in ("ARABIC DECIMAL SEPARATOR", "ARABIC THOUSANDS SEPARATOR"):
        return "." if "DECIMAL" in name else ","
    if category[0] == "P" and letter not in "#%&@/\\§′‰‱٪؉؊.,:":
        return " "
    return " " if category[0] == "Z" or category == "Cc" else letter


@dataclass(frozen=True)
class Candidate:
    """The counter or the point of pair number `row` of a split."""

    is_counter: bool
    row: int

    def text(self, pairs: Sequence[Pair]) -> str:
        return pairs[self.row].counter if self.is_counter else pairs[self.row].point


@dataclass(frozen=True)
class Ranked:
    """A point's candidates in stage-1 and in final order, and what the head said of those it scored."""

    truth: Candidate
    stage1: list[Candidate]
    final: list[Candidate]
    num_scored: int
    num_dead: int
    tie: bool

    @property
    def stage1_rank(self) -> int:
        return self.stage1.index(self.truth)

    @property
    def final_rank(self) -> int:
        return self.final.index(self.truth)


def in_candidate_order(pairs: Sequence[Pair]) -> list[Pair]:
    """Theme, debate, stance with con first, number."""
    return sorted(pairs, key=lambda pair: (pair.theme, pair.debate, pair.stance != "con", pair.number))


def everything(pairs: Sequence[Pair]) -> list[Candidate]:
    """All counters, then all points."""
    return [Candidate(is_counter, row) for is_counter in (True, False) for row in range(len(pairs))]


def official_candidates(pairs: Sequence[Pair], row: int) -> list[Candidate]:
    """Without the point itself, and without other counters whose text is the same string as the true one's."""
    asked, kept = pairs[row], []
    for candidate in everything(pairs):
        if candidate == Candidate(False, row):
            continue
        if candidate.is_counter and candidate.row != row and candidate.text(pairs) == asked.counter:
            continue
        kept.append(candidate)
    return kept


def clean_candidates(pairs: Sequence[Pair], row: int) -> list[Candidate]:
    """The official ones, also without texts equal to the point's, and without other counters equal to the true one.

    The true counter stays whatever its text.
    """

    def is_left(candidate: Candidate) -> bool:
        text, asked = candidate.text(pairs), pairs[row]
        return not same(text, asked.point) and not (candidate.is_counter and same(text, asked.counter))

    official = official_candidates(pairs, row)
    return [candidate for candidate in official if candidate == Candidate(True, row) or is_left(candidate)]


def task_candidates(pairs: Sequence[Pair], row: int, task: str) -> list[Candidate]:
    """One of the eight sets of Wachsmuth et al. 2018, within the official candidates."""
    return [
        candidate
        for candidate in official_candidates(pairs, row)
        if _in_task(pairs[row], pairs[candidate.row], candidate.is_counter, task)
    ]


def _in_task(asked: Pair, other: Pair, is_counter: bool, task: str) -> bool:
    same_theme = asked.theme == other.theme
    same_debate = same_theme and asked.debate == other.debate
    same_stance = asked.stance == other.stance
    opposing = same_stance if is_counter else not same_stance
    return {
        "sdoc": same_debate and opposing and is_counter,
        "sdc": same_debate and is_counter,
        "sdoa": same_debate and opposing,
        "sda": same_debate,
        "stc": same_theme and is_counter,
        "sta": same_theme,
        "epc": is_counter,
        "epa": True,
    }[task]


def clean_rows(pairs: Sequence[Pair], earlier: Sequence[Pair]) -> list[int]:
    """Rows that count in clean figures: each distinct pair once, neither text in the splits before as published."""
    known = {fold(text) for pair in earlier for text in (pair.point, pair.counter)}
    asked, rows = set(), []
    for row, pair in enumerate(pairs):
        both = fold(pair.point), fold(pair.counter)
        if both not in asked and not known & set(both):
            rows.append(row)
        asked.add(both)
    return rows


def rank(
    pairs: Sequence[Pair],
    row: int,
    candidates: Sequence[Candidate],
    embeddings: Embeddings,
    score: Score,
    k: int | None,
) -> Ranked:
    """Two stages over `candidates`, which are in candidate order; k None is stage 1 alone."""
    point = pairs[row].point

    def distance(candidate: Candidate) -> float:
        return math.dist(embeddings.point[point], embeddings.candidate[candidate.text(pairs)])

    def head_says(candidate: Candidate) -> np.float32:
        zero, one = score(point, candidate.text(pairs))
        return np.float32(one) - np.float32(zero)

    stage1 = sorted(candidates, key=distance)
    scored = stage1[:k] if k is not None else []
    final = sorted(scored, key=head_says, reverse=True) + stage1[len(scored) :]
    dead = sum(score(point, candidate.text(pairs)) == (0, 0) for candidate in scored)
    best, rivals = (head_says, scored) if len(scored) > 1 else (distance, stage1)
    tie = sum(best(candidate) == best(final[0]) for candidate in rivals) > 1
    return Ranked(Candidate(True, row), stage1, final, len(scored), dead, tie)


def rank_official(pairs: Sequence[Pair], embeddings: Embeddings, score: Score, k: int | None) -> list[Ranked]:
    return [rank(pairs, row, official_candidates(pairs, row), embeddings, score, k) for row in range(len(pairs))]


def rank_clean(
    pairs: Sequence[Pair], earlier: Sequence[Pair], embeddings: Embeddings, score: Score, k: int | None
) -> dict[int, Ranked]:
    return {
        row: rank(pairs, row, clean_candidates(pairs, row), embeddings, score, k) for row in clean_rows(pairs, earlier)
    }


def rank_task(pairs: Sequence[Pair], embeddings: Embeddings, score: Score, k: int | None, task: str) -> list[Ranked]:
    return [rank(pairs, row, task_candidates(pairs, row, task), embeddings, score, k) for row in range(len(pairs))]


def rank_as_study(pairs: Sequence[Pair], embeddings: Embeddings, score: Score) -> list[Ranked]:
    """k=10 among all counters and points, the point included, over the first ceil(N/16) points."""
    return [rank(pairs, row, everything(pairs), embeddings, score, 10) for row in range(math.ceil(len(pairs) / 16))]


def top1(rankings: Sequence[Ranked]) -> float:
    return sum(ranked.final_rank == 0 for ranked in rankings) / len(rankings)


def mrr(rankings: Sequence[Ranked]) -> float:
    return math.fsum(1 / (ranked.final_rank + 1) for ranked in rankings) / len(rankings)


def ndcg_at_10(rankings: Sequence[Ranked]) -> float:
    gains = (1 / math.log2(ranked.final_rank + 2) if ranked.final_rank < 10 else 0.0 for ranked in rankings)
    return math.fsum(gains) / len(rankings)


def recall_at(rankings: Sequence[Ranked], k: int) -> float:
    return sum(ranked.stage1_rank < k for ranked in rankings) / len(rankings)


def candidate_totals(pairs: Sequence[Pair]) -> dict[str, int]:
    """Official candidates of all points by disjoint kind, the names of the audit's JSON."""
    totals = dict.fromkeys(
        (
            "true",
            "debate_same_counter",
            "debate_other_counter",
            "debate_same_point",
            "debate_other_point",
            "theme_counter",
            "theme_point",
            "portal_counter",
            "portal_point",
        ),
        0,
    )
    for row in range(len(pairs)):
        for candidate in official_candidates(pairs, row):
            totals[_kind(pairs, row, candidate)] += 1
    return totals


def _kind(pairs: Sequence[Pair], row: int, candidate: Candidate) -> str:
    asked, other = pairs[row], pairs[candidate.row]
    if candidate == Candidate(True, row):
        return "true"
    what = "counter" if candidate.is_counter else "point"
    if asked.theme != other.theme:
        return f"portal_{what}"
    if asked.debate != other.debate:
        return f"theme_{what}"
    return f"debate_{'same' if asked.stance == other.stance else 'other'}_{what}"


def allowed_negatives(pairs: Sequence[Pair], row: int) -> set[str]:
    """Folded texts of the training pairs that pair `row` may get: not its point, nor any of its point's counters."""
    point = pairs[row].point
    answers = {fold(pair.counter) for pair in pairs if same(pair.point, point)}
    return {fold(text) for pair in pairs for text in (pair.point, pair.counter)} - answers - {fold(point)}


# Random small corpora, full of duplicate texts.

WORDS = ("Tax", "Zoo", "War", "Law")
SPELLINGS = ("{}", "{}!", "  {} ,", "«{}»")
PLACES = [
    (theme, debate, stance, number)
    for theme in ("ants", "bees")
    for debate in ("left", "right")
    for stance in ("pro", "con")
    for number in (1, 2)
]
"""Both themes have debates of the same names, and pro is listed first: neither must matter."""


@st.composite
def splits_of_pairs(draw: st.DrawFn, split: str, max_pairs: int = 8) -> list[Pair]:
    texts = st.builds(lambda word, spelling: spelling.format(word), st.sampled_from(WORDS), st.sampled_from(SPELLINGS))
    places = draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=max_pairs, unique=True))
    return [Pair(split, *place, point=draw(texts), counter=draw(texts)) for place in places]


@st.composite
def published_and_used(draw: st.DrawFn) -> tuple[Corpus, Corpus]:
    """A corpus of four texts in four spellings, as published and as used: whole, cut short, or made disjoint."""
    published = build_corpus(
        "random", [pair for split in SPLITS for pair in draw(splits_of_pairs(split))], asks_pairs=True
    )
    change = draw(st.sampled_from(["none", "limit", "disjoint"]))
    if change == "limit":
        return published, limit_debates(published, draw(st.integers(1, 2)))
    if change == "disjoint":
        try:
            return published, make_disjoint(published)
        except DataError:
            assume(False)
    return published, published


def corpora() -> st.SearchStrategy[Corpus]:
    return published_and_used().map(lambda both: both[1])


class ToyModel:
    """Random embeddings and logits of a corpus's texts, both for the program and for the reference.

    Whole numbers from a small range, so that distances and scores tie often; a text lies elsewhere as a candidate than
    as a point. The program's embeddings are the reference's times `scale`: distances are taken from the candidates'
    mean, and with the number of distinct candidate texts as the scale that mean is a whole number too, so that
    nothing is rounded.
    """

    def __init__(self, texts: Sequence[str], seed: int, width: int = 2) -> None:
        random = np.random.default_rng(seed)
        self.texts = texts
        self.number = {text: index for index, text in enumerate(texts)}
        self.places = torch.from_numpy(random.integers(-2, 3, size=(2, len(texts), width))).float()
        self.logits = random.integers(0, 3, size=(len(texts), len(texts), 2))
        self.embeddings = of_texts(texts, self.embedded(1))

    def embedded(self, scale: int) -> biencoder.Embeddings:
        point, candidate = (scale * self.places).unbind()
        return biencoder.Embeddings(point, point, candidate)

    def score(self, point: str, candidate: str) -> tuple[float, float]:
        zero, one = self.logits[self.number[point], self.number[candidate]].tolist()
        return zero, one

    def head(self, points: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same logits as the program asks for them: text numbers (M,), (M,) → scores, dead flags."""
        logits = torch.from_numpy(self.logits).float()[points, candidates]
        return head_score(logits), is_dead(logits)
