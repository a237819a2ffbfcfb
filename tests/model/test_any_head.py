"""No head is scored as another: every registered one, and some made up here, in every ranking, by exact order.

The reference runs the head's own forward over the features of one pair at a time, in float64.
"""

import copy
import functools
import itertools

import pytest
import torch
from support import reference
from support.helpers import make_pairs
from torch import nn

from biencoder_ablate.api import TrainedModel
from biencoder_ablate.config import registry
from biencoder_ablate.data.corpus import build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.encoder.texts import EncodeSettings
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.protocols import final_rankings
from biencoder_ablate.evaluation.ranking import rerank, stage1
from biencoder_ablate.model.biencoder import Architecture, BiEncoder, fuse
from biencoder_ablate.model.heads import ACTIVATIONS, NORMS, LinearHead, PairHead, SeparableForm, separable_of

EVERYTHING = 10**6
WIDTH, RETRIEVAL_WIDTH = 6, 4
LINEAR = [
    {"norm": norm, "activation": activation, "activation_position": position}
    for norm, activation, position in itertools.product(NORMS, ACTIVATIONS, ("after_linear2", "before_linear2"))
]
REGISTERED = [
    (name, options)
    for name in registry.names("heads")
    for options in {"linear": LINEAR, "mlp": [{"norm": norm} for norm in NORMS]}.get(name, [{}])
]
ARCHITECTURES = [
    {"fusion": fusion, "towers": towers, "similarity": similarity, "score": score}
    for fusion in ("concat", "pooled", "retrieval")
    for towers, similarity, score in (
        ("shared", "euclidean", "head"),
        ("separate", "euclidean", "head"),
        ("shared", "euclidean", "sum"),
        ("separate", "cosine", "sum"),
    )
]


class OwnForward(PairHead):
    """A head with nothing of ours but the base."""

    def __init__(self, widths):
        super().__init__(widths)
        self.scale = nn.Parameter(torch.ones(self.num_features))

    def forward(self, features):
        return torch.stack([(features * self.scale).sin().sum(-1), features.square().amax(-1)], dim=-1)


class NoPairHead(nn.Module):
    """One that is not even a PairHead, with dropout: it must be run in eval mode."""

    def __init__(self, widths):
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(3 * sum(widths), 2))

    def forward(self, features):
        return self.layers(features)


class Backwards(LinearHead):
    """Inherits what LinearHead says of itself, and does the opposite."""

    def forward(self, features):
        return -super().forward(features)


class SaysSo(LinearHead):
    """A forward of its own and, rightly, a word on how it separates: twice LinearHead's logits."""

    def forward(self, features):
        return 2 * super().forward(features)

    def separable(self):
        return SeparableForm(2 * self.linear2.weight, 2 * self.linear2.bias)


class Cubed(nn.Module):
    def forward(self, x):
        return x**3


class Halved(nn.Linear):
    """A linear2 that is not what its weights say."""

    def forward(self, x):
        return super().forward(x * torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype))


def with_module(name, make):
    """A LinearHead with LayerNorm of which a module was replaced."""

    def head(widths):
        head = LinearHead(widths, norm="layernorm")
        setattr(head, name, make(head.num_features))
        return head

    return head


MADE_UP = {
    "own forward": OwnForward,
    "no PairHead": NoPairHead,
    "linear backwards": Backwards,
    "says so itself": SaysSo,
    "cube for norm": with_module("norm", lambda width: Cubed()),
    "group norm": with_module("norm", lambda width: nn.GroupNorm(3, width)),
    "layernorm without gain": with_module("norm", lambda width: nn.LayerNorm(width, elementwise_affine=False)),
    "layernorm without bias": with_module("norm", lambda width: nn.LayerNorm(width, bias=False)),
    "rmsnorm of torch's eps": with_module("norm", nn.RMSNorm),
    "rmsnorm without gain": with_module("norm", lambda width: nn.RMSNorm(width, elementwise_affine=False)),
    "another linear2": with_module("linear2", lambda width: Halved(width, 2)),
    "linear2 without bias": with_module("linear2", lambda width: nn.Linear(width, 2, bias=False)),
    "a norm of logits": with_module("activation", lambda width: nn.Softmax(dim=-1)),
    "cube after": with_module("activation", lambda width: Cubed()),
}


@functools.cache
def corpus():
    """(test pairs, index): five pairs a split."""
    made = build_corpus(
        "made", make_pairs(num_debates=1, num_points=3)[:5] + make_pairs(1, 3)[6:11] + make_pairs(1, 3)[12:]
    )
    return made.test, build_table(made)


def shaken(model):
    """The model with all its weights away from where they start, norms' gains and biases too."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=random))
    return model


class Looked:
    """In place of an encoder: looks a text's h up."""

    settings = EncodeSettings("mean", 8, torch.device("cpu"))

    def __init__(self, h, number):
        self.h, self.number = h, number

    def __call__(self, texts, advance=None):
        return self.h[[self.number[text] for text in texts]]


def check_every_ranking(model):
    pairs, index = corpus()
    exact = copy.deepcopy(model).double().eval()
    h = torch.randn(len(index.texts), WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings, exactly = model.embed(h), exact.embed(h.double())
    number = {text: row for row, text in enumerate(index.texts)}

    @functools.cache
    def score(point, candidate):
        a, b = number[point], number[candidate]
        r_a, r_b = exactly.point[a], exactly.candidate[b]
        with torch.no_grad():
            logits = exact.head(fuse(model.architecture.fusion, h[a].double(), r_a, h[b].double(), r_b)[None])[0]
            if model.architecture.score == "sum":
                logits[1] += exact.similarity_weight * exact.similarity(r_a, r_b)
        return tuple(logits.tolist())

    prepared, places = build_task(index.splits["test"]), reference.of_texts(index.texts, exactly)
    point, candidates, sets = prepared.split.point, prepared.candidates, prepared.sets()[:1]
    scorer = pair_scorer(model.train(), embeddings)
    for depth in (3, EVERYTHING):
        expected = reference.rank_official(pairs, places, score, depth)
        (found,) = stage1(embeddings, point, candidates, sets, len(candidates))
        lists = rerank(found, depth, point, candidates, scorer)
        for order, ranked in zip(lists.order.tolist(), expected, strict=True):
            wanted = [candidate.row + (not candidate.is_counter) * len(pairs) for candidate in ranked.final]
            assert [candidate for candidate in order if candidate >= 0] == wanted
        rankings = final_rankings(prepared, embeddings, scorer, "all" if depth == EVERYTHING else depth).official
        assert rankings.final_rank.tolist() == [ranked.final_rank for ranked in expected]
        assert rankings.stage1_rank.tolist() == [ranked.stage1_rank for ranked in expected]
    for rerank_to, depth in (("all", EVERYTHING), (4, 4)):
        used = TrainedModel("made", Looked(h, number), model.eval(), rerank_to)
        corpus_of = used.index_of(index.texts[1:], h[1:])
        retrieved = used.retrieve(index.texts[0], corpus_of, len(corpus_of)).candidate[0].tolist()
        assert retrieved == retrieved_plainly(index.texts, places, score, depth)


def retrieved_plainly(texts, places, score, depth):
    """All other texts in order for the first one, as numbers from 0."""
    others = range(1, len(texts))
    by_distance = sorted(
        others, key=lambda row: torch.dist(*map(torch.tensor, (places.point[texts[0]], places.candidate[texts[row]])))
    )

    def head_says(row):
        zero, one = score(texts[0], texts[row])
        return one - zero

    final = sorted(by_distance[:depth], key=head_says, reverse=True) + by_distance[depth:]
    return [row - 1 for row in final]


def in_turns(number):
    """A third of the architectures with every fusion, another one for the next head; all of them among the slow tests.

    Each architecture has its turn with one head in three.
    """
    return [
        pytest.param(ARCHITECTURES[number % 3 :: 3], id="some"),
        pytest.param(ARCHITECTURES, id="all", marks=pytest.mark.slow),
    ]


def for_each(heads):
    """(head, architectures) for parametrize."""
    return [
        pytest.param(head, *shapes.values, id=f"{name}-{shapes.id}", marks=shapes.marks)
        for number, (name, head) in enumerate(heads)
        for shapes in in_turns(number)
    ]


@pytest.mark.parametrize(("head", "shapes"), for_each((str(head), head) for head in REGISTERED))
def test_every_registered_head(head, shapes):
    name, options = head
    for shape in shapes:
        architecture = Architecture(WIDTH, RETRIEVAL_WIDTH, head=name, head_options=options, **shape)
        check_every_ranking(shaken(BiEncoder(architecture)))


@pytest.mark.parametrize(("make", "shapes"), for_each(MADE_UP.items()))
def test_heads_made_up_on_the_spot(make, shapes):
    for shape in shapes:
        model = BiEncoder(Architecture(WIDTH, RETRIEVAL_WIDTH, **shape))
        model.head = make(model.architecture.feature_widths)
        check_every_ranking(shaken(model))


def test_which_heads_take_the_fast_way():
    """All the linear ones but norms followed by an activation, or GELU and tanh, before linear2; and who says so."""
    widths = (RETRIEVAL_WIDTH, WIDTH)
    for options in LINEAR:
        nothing_between = options["activation_position"] == "after_linear2" or options["activation"] == "none"
        rectified = options["norm"] == "none" and options["activation"] == "relu"
        separates = separable_of(LinearHead(widths, **options)) is not None
        assert separates == (nothing_between or rectified), options
    fast = [name for name, make in MADE_UP.items() if separable_of(make(widths)) is not None]
    assert fast == ["says so itself", "a norm of logits", "cube after"]
