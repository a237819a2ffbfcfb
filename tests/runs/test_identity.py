"""A run's name: every setting says whether it is part of it, and those that are always tell two runs apart."""

import hashlib
import re
from dataclasses import dataclass, field, fields, is_dataclass, replace

import pytest

from biencoder_ablate.config.schema import Config, HeadConfig, schema_keys
from biencoder_ablate.runs.identity import RESULTS_VERSION, identity, run_name, short_hash

# What names no run: places, machines, ways of computing the same, and what a fingerprint stands for.
NAMELESS = {
    "data.name data.path data.split_seed data.limit data.disjoint data.options data.subset "
    "data.point data.counter data.negative data.split data.group data.id "
    "data.folds data.fold",  # the fingerprint of the pairs read
    "model.name model.name_or_path model.revision",  # the fingerprint of the encoder's files
    "model.finetuned",  # the run it comes from, and the fingerprint of its encoder's files
    "training.device training.micro_batch training.save_model training.fast training.compile training.deterministic",
    "tracker logs_dir rerun plan sweep_name margin looks metric cache_dir",
    "tuning.name tuning.trials tuning.num_seeds tuning.space parts.name parts.whole parts.bare",  # what a sweep makes
}
NAMELESS = {key for keys in NAMELESS for key in keys.split()}
# The precision that `auto` comes to stands in the identity instead of what was asked.
BY_OUTCOME = {"training.precision"}


def leaves(schema, prefix=""):
    """Every field of the schema that is no group: (dotted key, field)."""
    for item in fields(schema):
        if is_dataclass(item.default_factory):
            yield from leaves(item.default_factory, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item


LEAVES = dict(leaves(Config))


def silent(schema):
    """The keys that do not say whether they name a run."""
    return [key for key, item in leaves(schema) if item.metadata.get("names_run") not in (True, False, "changed")]


def test_every_setting_says_whether_it_names_a_run():
    assert silent(Config) == []
    assert set(LEAVES) == {key for key, _ in schema_keys()}


def test_a_setting_that_says_nothing_is_found():
    @dataclass
    class Forgetful(HeadConfig):
        width: int = 3

    @dataclass
    class Grown(Config):
        head: Forgetful = field(default_factory=Forgetful)

    assert silent(Grown) == ["head.width"]
    with pytest.raises(KeyError, match="names_run"):
        identity(Grown(), "d", "m", "fp32")


def test_what_names_no_run_is_this_and_nothing_more():
    assert {key for key, item in LEAVES.items() if not item.metadata["names_run"]} == NAMELESS


def changed(config, key, value):
    group, _, name = key.rpartition(".")
    if not group:
        return replace(config, **{name: value})
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


def value_of(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def others(item, value):
    """Values of a field that differ from `value`, by its rule and type."""
    if item.metadata["choices"]:
        found = [*item.metadata["choices"]]
    elif "dict" in str(item.type):
        found = [{"a": 1}, {"a": 2}, {"b": 1}]
    elif "bool" in str(item.type):
        found = [True, False]
    elif "str" in str(item.type) and "int" not in str(item.type):
        found = ["one", "another"]
    else:
        found = [0.25, 1, 2]
    if "None" in str(item.type):
        found.append(None)
    return [other for other in found if other != value]


def names(config):
    determined_by = identity(config, "data", "model", "fp32")
    return determined_by, run_name(config, determined_by)


# A config in which nothing is idle: an activation, so that its position counts; an encoder that is trained.
BUSY = Config(head=HeadConfig("linear", "layernorm", "relu", "after_linear2"))


@pytest.mark.parametrize("key", sorted(LEAVES))
def test_a_setting_changes_the_name_if_it_says_so(key):
    seen = [names(BUSY)]
    for value in others(LEAVES[key], value_of(BUSY, key)):
        seen.append(names(changed(BUSY, key, value)))
    assert len(seen) >= 2
    if LEAVES[key].metadata["names_run"] and key not in BY_OUTCOME:
        assert all(a[0] != b[0] and a[1] != b[1] for i, a in enumerate(seen) for b in seen[:i])
    else:
        assert all(entry == seen[0] for entry in seen)


def test_no_two_settings_of_a_kind_are_taken_for_one_another():
    """The same value under every key in turn: all names differ, across groups as well."""
    seen = {}
    for key, item in LEAVES.items():
        if item.metadata["names_run"] and key not in BY_OUTCOME:
            for value in others(item, value_of(BUSY, key)):
                _, name = names(changed(BUSY, key, value))
                assert name not in seen, (key, seen.get(name))
                seen[name] = key
    assert len(seen) > 80


# Idle: without effect beside the others, and so without a name. Nothing else may be.
IDLE = [
    ({"head.activation": "none"}, "head.activation_position"),
    ({"head.activation": None}, "head.activation_position"),
    ({"training.freeze_encoder": True}, "model.dropout"),
    ({"training.freeze_encoder": True}, "training.learning_rate"),
]


@pytest.mark.parametrize(("beside", "key"), IDLE)
def test_what_has_no_effect_names_nothing(beside, key):
    config = BUSY
    for other, value in beside.items():
        config = changed(config, other, value)
    assert names(config) != names(BUSY)
    for value in others(LEAVES[key], value_of(config, key)):
        assert names(changed(config, key, value)) == names(config)


@pytest.mark.parametrize("beside", [{}, *({key: value} for given, _ in IDLE for key, value in given.items())])
def test_nothing_else_is_idle(beside):
    config = BUSY
    for key, value in beside.items():
        config = changed(config, key, value)
    idle = {key for given, key in IDLE if given == beside}
    for key, item in LEAVES.items():
        if item.metadata["names_run"] and key not in BY_OUTCOME | idle:
            for value in others(item, value_of(config, key)):
                assert names(changed(config, key, value)) != names(config), key


@pytest.mark.parametrize("activation", [None, "none", "relu"])
def test_another_packages_head_may_mean_anything_by_a_null(activation):
    """Its own default may be an activation, and then the position counts."""
    heads = [HeadConfig("theirs", None, activation, position) for position in ("after_linear2", "before_linear2")]
    first, second = (names(Config(head=head)) for head in heads)
    assert first[0] != second[0] and first[1] != second[1]


def test_data_model_precision_and_the_results_version_name_a_run():
    base = identity(BUSY, "data", "model", "fp32")
    assert base["results_version"] == RESULTS_VERSION
    for other in (("data2", "model", "fp32"), ("data", "model2", "fp32"), ("data", "model", "bf16")):
        assert identity(BUSY, *other) != base
    asked = [
        identity(changed(BUSY, "training.precision", asked), "data", "model", "fp32") for asked in ("auto", "fp32")
    ]
    assert asked[0] == asked[1] == base


def test_the_name_says_head_schedule_ratio_and_seed():
    config = replace(BUSY, neg_ratio=0.5, seed=3)
    assert names(config)[1].startswith("layernorm_relu_neg0.5_seed3_")
    curriculum = changed(changed(config, "negatives.schedule", "curriculum"), "negatives.start", 0.2)
    assert names(curriculum)[1].startswith("layernorm_relu_curr0.5_seed3_")
    assert names(Config(head=HeadConfig("mlp", hidden=8)))[1].startswith("mlp_neg0.01_seed0_")


def test_options_are_the_same_in_any_order_and_differ_by_value():
    def of(options):
        return names(Config(head=HeadConfig("theirs", options=options)))[1]

    assert of({"a": 1, "b": 2}) == of({"b": 2, "a": 1})
    assert len({of({}), of({"a": 1}), of({"a": 2}), of({"b": 1}), of({"a": [1, 2]}), of({"a": "1"})}) == 6


def test_a_name_ends_in_the_first_eight_digits_of_a_hash_over_what_is_set():
    """Of the keys in order, as JSON writes them: sha256 of {"a": 1, "b": [2]}. Another length renames every run."""
    assert short_hash({"b": [2], "a": 1}) == hashlib.sha256(b'{"a": 1, "b": [2]}').hexdigest()[:8]
    assert re.fullmatch(r"none_neg0\.01_seed0_[0-9a-f]{8}", names(Config(head=HeadConfig("linear", "none", "none")))[1])
