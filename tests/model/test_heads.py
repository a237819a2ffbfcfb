"""The heads, module by module and output by output: hand-worked numbers, plain formulas, and what they say of
themselves; a registered name that is wrong, and a head of another package."""

import inspect
import itertools
import math
import sys

import pytest
import torch
from torch import nn

from biencoder_ablate.config import ConfigError, registry
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.heads import (
    BilinearHead,
    LinearHead,
    MlpHead,
    PairHead,
    SeparableForm,
    head_score,
    is_dead,
    separable_of,
)
from biencoder_ablate.utils.seeding import derive_seed

VARIANTS = {
    "none": ("none", "none"),
    "layernorm": ("layernorm", "none"),
    "relu": ("none", "relu"),
    "layernorm_relu": ("layernorm", "relu"),
}
POSITIONS = ("after_linear2", "before_linear2")

# One pair of F = 4 features, their mean 2, their distances from it −1 1 −3 3, variance (1+1+9+9)/4 = 5.
FEATURES = [1.0, 3.0, -1.0, 5.0]
S = math.sqrt(5 + 1e-5)  # torch's LayerNorm adds 1e-5 to the variance
SCALE, SHIFT = [1.0, 2.0, 1.0, -1.0], [0.0, 0.0, 1.0, 0.5]
WEIGHT, BIAS = [[1.0, -1.0, 0.5, 0.0], [0.0, 2.0, 1.0, -1.0]], [0.5, -1.0]
# LayerNorm: [−1/S, 2·1/S, 1 − 3/S, 0.5 − 3/S], about [−0.447, 0.894, −0.342, −0.842].
HAND = {
    # 1 − 3 − 0.5 + 0.5 and 6 − 1 − 5 − 1
    ("none", "after_linear2"): [-2.0, -1.0],
    ("none", "before_linear2"): [-2.0, -1.0],
    ("relu", "after_linear2"): [0.0, 0.0],
    # features [1, 3, 0, 5]: 1 − 3 + 0.5 and 6 − 5 − 1
    ("relu", "before_linear2"): [-1.5, 0.0],
    # −1/S − 2/S + 0.5 − 1.5/S + 0.5 and 4/S + 1 − 3/S − 0.5 + 3/S − 1
    ("layernorm", "after_linear2"): [1 - 4.5 / S, 4 / S - 0.5],
    ("layernorm", "before_linear2"): [1 - 4.5 / S, 4 / S - 0.5],
    ("layernorm_relu", "after_linear2"): [0.0, 4 / S - 0.5],
    # features [0, 2/S, 0, 0]: −2/S + 0.5 and 4/S − 1
    ("layernorm_relu", "before_linear2"): [0.5 - 2 / S, 4 / S - 1],
}


def make_head(variant, position="after_linear2", width=4):
    """A variant over so many features; hand-made ones need not come in threes."""
    head = LinearHead((width,), *VARIANTS[variant], position)
    head.linear2 = nn.Linear(width, 2)
    if "layernorm" in variant:
        head.norm = nn.LayerNorm(width)
    return head


def make_model(variant, seed=0, fusion="concat", retrieval_dim=3, pooled_dim=8):
    norm, activation = VARIANTS[variant]
    shape = Architecture(
        pooled_dim, retrieval_dim, fusion=fusion, head_options={"norm": norm, "activation": activation}
    )
    return BiEncoder(shape, seed=seed)


def set_by_hand(head):
    """The LayerNorm's own scale and shift are set away from 1 and 0, so that they are seen to act."""
    with torch.no_grad():
        head.linear2.weight.copy_(torch.tensor(WEIGHT))
        head.linear2.bias.copy_(torch.tensor(BIAS))
        if isinstance(head.norm, nn.LayerNorm):
            head.norm.weight.copy_(torch.tensor(SCALE))
            head.norm.bias.copy_(torch.tensor(SHIFT))
    return head


@pytest.mark.parametrize(("variant", "position"), list(HAND))
def test_outputs_equal_the_hand_computation(variant, position):
    head = set_by_hand(make_head(variant, position))
    other = [0.0, 0.0, 2.0, -2.0]
    logits = head(torch.tensor([FEATURES, other]))
    torch.testing.assert_close(logits[0], torch.tensor(HAND[variant, position]), rtol=0, atol=1e-6)
    # A pair's logits do not depend on what else is in the batch, nor on the number of leading dimensions.
    torch.testing.assert_close(head(torch.tensor(FEATURES)), logits[0])
    torch.testing.assert_close(head(torch.tensor([[FEATURES, other]]))[0], logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_module_is_there_or_not(variant):
    head = make_head(variant)
    kinds = [type(module) for module in head.modules()]
    assert kinds.count(nn.LayerNorm) == ("layernorm" in variant)
    assert kinds.count(nn.ReLU) == ("relu" in variant)
    assert kinds.count(nn.Linear) == 1
    parameters = {"linear2.weight", "linear2.bias"}
    if "layernorm" in variant:
        parameters |= {"norm.weight", "norm.bias"}
    assert {name for name, _ in head.named_parameters()} == parameters


@pytest.mark.parametrize(("variant", "position"), list(itertools.product(VARIANTS, POSITIONS)))
def test_features_are_never_changed_in_place(variant, position):
    head = make_head(variant, position)
    features = torch.tensor([FEATURES, [-1.0, -2.0, -3.0, -4.0]], requires_grad=True)
    seen = features + 0  # not a leaf: what a shared hidden state is to the head
    seen.retain_grad()
    version, before = seen._version, seen.detach().clone()
    head(seen).sum().backward()
    assert torch.equal(seen.detach(), before)
    assert seen._version == version
    assert seen.grad.shape == seen.shape


def test_the_after_position_leaves_negative_features_to_linear2():
    """A ReLU over the features would hide the −1 of the hand example; after linear2 it may not."""
    head = set_by_hand(make_head("relu"))
    with torch.no_grad():
        head.linear2.bias.copy_(torch.tensor([10.0, 10.0]))
    assert head(torch.tensor(FEATURES)).tolist() == [7.5, 10.0]


@pytest.mark.parametrize("widths", [(2,), (768, 128)])
def test_initialisation_is_torchs_own(widths):
    num_features = 3 * sum(widths)
    torch.manual_seed(5)
    plain = nn.Linear(num_features, 2)
    for variant, position in itertools.product(VARIANTS, POSITIONS):
        torch.manual_seed(5)
        head = LinearHead(widths, *VARIANTS[variant], position)
        assert head.num_features == num_features
        assert torch.equal(head.linear2.weight, plain.weight) and torch.equal(head.linear2.bias, plain.bias)
        if "layernorm" in variant:
            assert head.norm.weight.eq(1).all() and head.norm.bias.eq(0).all() and head.norm.eps == 1e-5


def test_shared_parts_start_equal_across_variants():
    models = {variant: make_model(variant, seed=3) for variant in VARIANTS}
    first = models["none"].state_dict()
    assert set(first) == {"linear1.weight", "linear1.bias", "head.linear2.weight", "head.linear2.bias"}
    for model in models.values():
        state = model.state_dict()
        for name, value in first.items():
            assert torch.equal(state[name], value), name


def test_linear1_and_linear2_have_streams_of_their_own():
    """linear2's weights may not depend on whether there is a linear1, nor on how wide it is."""
    narrow, wide, without = (make_model("none", 3, "pooled", dim) for dim in (3, 5, None))
    assert torch.equal(narrow.head.linear2.weight, wide.head.linear2.weight)
    assert torch.equal(narrow.head.linear2.weight, without.head.linear2.weight)
    torch.manual_seed(derive_seed(3, "weights", "linear1"))
    assert torch.equal(narrow.linear1.weight, nn.Linear(8, 3).weight)
    torch.manual_seed(derive_seed(3, "weights", "head"))
    assert torch.equal(narrow.head.linear2.weight, nn.Linear(24, 2).weight)


def test_another_seed_gives_other_weights():
    one, other = make_model("none", seed=0), make_model("none", seed=1)
    assert not torch.equal(one.linear1.weight, other.linear1.weight)
    assert not torch.equal(one.head.linear2.weight, other.head.linear2.weight)


def test_building_disturbs_no_random_state():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    make_model("layernorm")
    assert torch.equal(torch.rand(3), expected)


def test_the_score_orders_where_probabilities_tie():
    logits = torch.tensor([[0.0, 40.0], [0.0, 50.0], [1.0, -1.0]])
    probability = logits.softmax(-1)[:, 1]
    assert probability[0] == probability[1] == 1.0
    assert head_score(logits).tolist() == [40.0, 50.0, -2.0]


def test_the_score_subtracts_in_float32():
    logits = torch.tensor([0.0078125, 256.0], dtype=torch.bfloat16)
    assert (logits[1] - logits[0]).item() == 256.0
    assert head_score(logits).dtype == torch.float32
    assert head_score(logits).item() == 255.9921875


def test_a_pair_is_dead_only_when_both_logits_are_zero():
    logits = torch.tensor([[0.0, 0.0], [-0.0, 0.0], [0.0, 1e-30], [1.0, 0.0], [-1.0, 1.0]])
    assert is_dead(logits).tolist() == [True, True, False, False, False]


# Every registered head against its formula, in float64, every weight away from its start.
WIDTHS = (3, 2)
NORMS = ("none", "layernorm", "rmsnorm")
ACTIVATIONS = ("none", "relu", "gelu", "tanh")
LINEAR = [
    dict(zip(("norm", "activation", "activation_position"), chosen, strict=True))
    for chosen in itertools.product(NORMS, ACTIVATIONS, POSITIONS)
]
HEADS = [
    *(("linear", options) for options in LINEAR),
    ("bilinear", {}),
    *(("mlp", {"hidden": 5, "norm": n, "activation": a}) for n, a in itertools.product(NORMS, ACTIVATIONS)),
]


def of_name(name, options=None):
    return registry.make("heads", "head", name, options or {}, WIDTHS)


def stirred(head, seed=0):
    """The same head in float64, every parameter moved, so that gains and shifts are seen to act."""
    random = torch.Generator().manual_seed(seed)
    for parameter in head.double().parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return head


def make_pairs(num=7, seed=1):
    """Features (num, F) of pairs as fused, and the two texts' parts end to end."""
    random = torch.Generator().manual_seed(seed)
    parts = [torch.randn(2, num, width, generator=random, dtype=torch.float64) for width in WIDTHS]
    features = torch.cat([piece for a, b in parts for piece in (a, b, (a - b).abs())], dim=-1)
    a, b = torch.cat(parts, dim=-1)
    return features, a, b


def plain_norm(norm, x):
    if isinstance(norm, nn.LayerNorm):
        variance = ((x - x.mean()) ** 2).mean()
        return (x - x.mean()) / math.sqrt(variance + 1e-5) * norm.weight + norm.bias
    if isinstance(norm, nn.RMSNorm):
        return x / math.sqrt((x**2).mean() + 1e-6) * norm.weight
    return x


PLAIN_ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
}


def plain_logits(head, name, options, x, a, b):
    """One pair's logits by the formulas of model/heads.py."""
    if name == "bilinear":
        return torch.stack([a @ head.weight[c] @ b + head.bias[c] for c in (0, 1)])
    activate, x = PLAIN_ACTIVATIONS[options["activation"]], plain_norm(head.norm, x)
    if name == "mlp":
        return head.linear2.weight @ activate(head.hidden.weight @ x + head.hidden.bias) + head.linear2.bias
    if options["activation_position"] == "before_linear2":
        return head.linear2.weight @ activate(x) + head.linear2.bias
    return activate(head.linear2.weight @ x + head.linear2.bias)


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_every_registered_head_is_its_formula(name, options):
    head = stirred(of_name(name, options))
    features, a, b = make_pairs()
    expected = torch.stack([plain_logits(head, name, options, *pair) for pair in zip(features, a, b, strict=True)])
    torch.testing.assert_close(head(features), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(head(features[None, :, None])[0, :, 0], expected, rtol=1e-9, atol=1e-12)
    assert head.describe()


def test_all_registered_heads_are_tested():
    assert {name for name, _ in HEADS} == set(registry.names("heads"))


def test_where_the_bilinear_and_the_mlp_start():
    torch.manual_seed(2)
    plain = nn.Bilinear(5, 5, 2)
    torch.manual_seed(2)
    head = of_name("bilinear")
    assert torch.equal(head.weight, plain.weight) and torch.equal(head.bias, plain.bias)
    mlp = of_name("mlp")
    assert (mlp.hidden.in_features, mlp.hidden.out_features, mlp.linear2.out_features) == (15, 256, 2)
    assert type(mlp.activation) is nn.GELU and type(mlp.norm) is nn.Identity


def by_separable(form, features):
    """The formula in SeparableForm's docstring, from features as they are."""
    x = features.clamp_min(0) if form.rectified else features
    m = x.mean(-1, keepdim=True) if form.centred else 0.0
    s = 1.0 if form.eps is None else 1 / torch.sqrt(((x - m) ** 2).mean(-1, keepdim=True) + form.eps)
    return form.finish(s * (x @ form.weight.T - m * form.weight.sum(-1)) + form.bias)


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_a_separable_head_is_what_it_says(name, options):
    head = stirred(of_name(name, options))
    form, (features, _, _) = separable_of(head), make_pairs()
    if form is not None:
        torch.testing.assert_close(by_separable(form, features), head(features), rtol=1e-9, atol=1e-12)
    acts_before = options.get("activation", "none") != "none" and options["norm"] + options["activation"] != "nonerelu"
    if name == "linear" and options["activation_position"] == "before_linear2":
        assert (form is None) == acts_before
    else:
        assert (form is None) == (name != "linear")


class Louder(LinearHead):
    def forward(self, features):
        return 2 * super().forward(features)


class LouderAndSaysSo(Louder):
    def forward(self, features):
        return super().forward(features)

    def separable(self):
        return SeparableForm(2 * self.linear2.weight, 2 * self.linear2.bias)


class Renamed(LinearHead):
    """Neither forward nor separable of its own."""


class Bare(nn.Module):
    def forward(self, features):
        return features[..., :2]


class LinearTwice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_forward_of_ones_own_separates_only_if_it_says_so():
    features, _, _ = make_pairs()
    assert separable_of(Louder(WIDTHS)) is None
    assert separable_of(Bare()) is None
    for kind in (LouderAndSaysSo, Renamed):
        head = stirred(kind(WIDTHS))
        torch.testing.assert_close(by_separable(separable_of(head), features), head(features))
    head = of_name("linear")
    head.forward = lambda features: features[..., :2]
    assert separable_of(head) is None


@pytest.mark.parametrize(
    ("part", "module"),
    [
        ("linear2", nn.Sequential(nn.Linear(15, 2), nn.Tanh())),
        ("linear2", LinearTwice(15, 2)),
        ("linear2", nn.Linear(15, 2, bias=False)),
        ("norm", nn.Dropout(0.5)),
        ("norm", nn.Sequential(nn.LayerNorm(15))),
        ("norm", nn.LayerNorm(15, elementwise_affine=False)),
        ("norm", nn.LayerNorm(15, bias=False)),
        ("norm", nn.RMSNorm(15)),
        ("norm", nn.RMSNorm(15, elementwise_affine=False)),
        ("activation", nn.ReLU6()),
    ],
)
@pytest.mark.parametrize("position", POSITIONS)
def test_a_replaced_module_is_never_scored_as_the_one_it_replaced(part, module, position):
    """What is not the plain module does not separate; after linear2, any activation is part of `finish`."""
    head = LinearHead(WIDTHS, "none", "relu" if part == "activation" else "none", position)
    setattr(head, part, module)
    stirred(head.eval())
    form, (features, _, _) = separable_of(head), make_pairs()
    if part == "activation" and position == "after_linear2":
        torch.testing.assert_close(by_separable(form, features), head(features))
    else:
        assert form is None


@pytest.mark.parametrize(
    ("kind", "group", "name", "options", "said"),
    [
        ("heads", "head", "linear", {"hidden": 256}, "head.hidden=256: not a key of head=linear, which takes norm, "),
        ("heads", "head", "bilinear", {"norm": "none"}, "head.norm=none: not a key of head=bilinear, which takes none"),
        ("heads", "head", "mlp", {"widht": 3}, "head.widht=3: not a key of head=mlp, which takes hidden, norm"),
        ("heads", "head", "linaer", {}, "head.name=linaer: must be one of linear, bilinear, mlp, or a name that"),
        ("losses", "loss", "study", {"temperature": 1}, "loss.temperature=1: not a key of loss=study, which takes tri"),
        ("losses", "loss", "contrastive", {"margin": 1}, "loss.margin=1: not a key of loss=contrastive, which takes "),
    ],
)
def test_an_unknown_name_or_key_is_one_line(kind, group, name, options, said):
    with pytest.raises(ConfigError) as error:
        registry.make(kind, group, name, options, *([WIDTHS] if kind == "heads" else []))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [LinearHead, BilinearHead, MlpHead])
def test_a_head_takes_the_widths_of_its_parts_first(kind):
    assert next(iter(inspect.signature(kind).parameters)) == "widths"
    head = kind((4, 3))
    assert isinstance(head, PairHead) and head.num_features == 21
    assert head(torch.zeros(2, 21)).shape == (2, 2)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package as pip would leave it, on the path: a module, and a dist-info with entry points."""
    (tmp_path / "their_heads.py").write_text(
        "from biencoder_ablate.model.heads import PairHead\n"
        "class Sum(PairHead):\n"
        "    def __init__(self, widths, scale=1.0, **more):\n"
        "        super().__init__(widths)\n"
        "        self.scale, self.more = scale, more\n"
        "    def forward(self, features):\n"
        "        return self.scale * features.sum(-1, keepdim=True).expand(*features.shape[:-1], 2)\n"
    )
    info = tmp_path / "their_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-heads\nVersion: 1.0\n")
    points = ("sum = their_heads:Sum", "linear = their_heads:Sum", "gone = their_heads:Gone", "absent = no_module:Sum")
    (info / "entry_points.txt").write_text("\n".join(["[biencoder_ablate.heads]", *points, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    registry._places.cache_clear()
    yield
    registry._places.cache_clear()
    sys.modules.pop("their_heads", None)


def test_a_head_of_another_package_is_found_by_its_entry_point(foreign):
    assert registry.names("heads") == ["linear", "bilinear", "mlp", "absent", "gone", "sum"]
    model = BiEncoder(Architecture(4, 2, head="sum", head_options={"scale": 3.0}))
    assert type(model.head).__module__ == "their_heads"
    h, r = torch.ones(4), torch.ones(2)
    assert model.logits(h, r, h, r).tolist() == [36.0, 36.0]  # [1 1 1 1 0 0, 1 1 1 1 1 1 1 1 0 0 0 0] times 3
    assert separable_of(model.head) is None
    assert registry.make("heads", "head", "sum", {"any": "key"}, (1,)).more == {"any": "key"}


def test_no_package_takes_one_of_our_names_and_what_cannot_be_had_is_one_line(foreign):
    assert registry.find("heads", "linear", "head.name") is LinearHead
    for name, place in (("gone", "their_heads:Gone"), ("absent", "no_module:Sum")):
        with pytest.raises(ConfigError, match=rf"^head.name={name}: {place} cannot be imported \(.*\)$"):
            registry.make("heads", "head", name, {}, (1,))


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_a_head_begun_at_zero_prefers_no_pair_and_can_leave(name, options):
    """Equal logits for every pair, alive after a ReLU; the first gradient reaches the last weights."""
    shape = Architecture(3, 2, head=name, head_options=options, head_init="zero")
    head = BiEncoder(shape).head.double()
    logits = head(make_pairs()[0])
    assert torch.equal(head_score(logits), torch.zeros(7)) and not is_dead(logits).any()
    logits[:, 1].sum().backward()
    last = head.weight if name == "bilinear" else head.linear2.weight
    assert last.grad[1].abs().max() > 0


def test_what_is_no_head_is_refused_in_one_line(foreign, tmp_path):
    (tmp_path / "their_heads.py").write_text("from torch.nn import Identity as Sum\n")
    with pytest.raises(ConfigError, match=r"^head\.name=sum: "):
        BiEncoder(Architecture(4, 2, head="sum"))
