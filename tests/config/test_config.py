"""Settings: every mistake on the command line ends in one line that names the key, the value and what would do."""

import math
import pickle
from dataclasses import fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf
from support.helpers import make_pairs, only_error, run_here, write_arguana_tree, write_pairs_csv

from biencoder_ablate.config.compose import compose_command, conf_directory, load_config, parse_arguments, to_config
from biencoder_ablate.config.schema import (
    Config,
    ConfigError,
    DataConfig,
    EvaluationConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    NegativesConfig,
    TrainingConfig,
    cache_directory,
    check,
    head_name,
    schema_keys,
)

TINY = ModelConfig("tiny")
EXPERIMENTS = sorted(path.stem for path in (conf_directory() / "experiment").glob("*.yaml"))


@pytest.fixture
def empty(tmp_path):
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def numeric_rules():
    """(group, field) for every key of the schema whose rule is a range."""
    for item in fields(Config):
        group = getattr(Config(), item.name)
        for inner in fields(group) if is_dataclass(group) else [item]:
            rule = inner.metadata
            if any(rule[bound] is not None for bound in ("low", "high", "above")):
                yield pytest.param(item.name if is_dataclass(group) else None, inner, id=inner.name)


def with_value(group, name, value):
    """A valid config but for this one value; the keys that it depends on are set along with it."""
    config = Config(model=TINY)
    if name == "start":
        config = replace(config, negatives=NegativesConfig("curriculum", 0.5))
    elif name == "relative_margin":
        config = replace(config, model=replace(TINY, similarity="cosine"))
    elif name in ("weight_decay", "projection_weight_decay"):
        config = replace(config, training=TrainingConfig(optimizer="adamw"))
    elif name in ("folds", "fold"):
        config = replace(config, data=replace(config.data, folds=3, fold=0))
    elif name in ("positive", "negative", "head"):
        config = replace(config, evaluation=EvaluationConfig("none"))
    elif name in ("folds", "fold"):
        config = replace(config, data=DataConfig(folds=3, fold=0))
    elif name == "retrieval":
        config = replace(config, loss=LossConfig("contrastive", head=1.0))
    if group is None:
        return replace(config, **{name: value})
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


@pytest.mark.parametrize(("group", "item"), list(numeric_rules()))
def test_ranges_hold_to_the_last_value(group, item):
    rule, key = item.metadata, f"{group}.{item.name}" if group else item.name
    step = 1 if "int" in str(item.type) else 1e-9
    good = [rule["low"], rule["high"]] + ([rule["above"] + step] if rule["above"] is not None else [])
    bad = [math.nan, math.inf, -math.inf]
    bad += [rule["low"] - step] if rule["low"] is not None else []
    bad += [rule["high"] + step] if rule["high"] is not None else []
    bad += [rule["above"]] if rule["above"] is not None else []
    for value in good:
        if value is not None:
            check(with_value(group, item.name, value))
    for value in bad:
        with pytest.raises(ConfigError) as refused:
            check(with_value(group, item.name, value))
        assert str(refused.value) == f"{key}={value}: must be {rule['valid']}"


@pytest.mark.parametrize(
    ("group", "name", "good", "bad"),
    [
        ("model", "pooling", ["pooler", "cls", "mean"], ["max", "", "MEAN"]),
        ("head", "norm", ["none", "layernorm", "rmsnorm"], ["batchnorm", ""]),
        ("head", "activation", ["none", "relu", "gelu", "tanh"], ["swish"]),
        ("head", "activation_position", ["after_linear2", "before_linear2"], ["after"]),
        ("fusion", "name", ["concat", "pooled", "retrieval"], ["sum"]),
        ("training", "schedule", ["constant", "linear", "cosine"], ["step"]),
        ("evaluation", "select", ["top1_clean", "top1", "mrr"], ["loss"]),
        ("training", "precision", ["auto", "fp32", "bf16"], ["fp16", "64"]),
        ("training", "device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"], ["gpu", "cuda:", "cuda:x", "CPU"]),
        ("evaluation", "rerank", [1, 10, 10**6, "all", "none"], [0, -1, "some", "", True]),
        (None, "sweep_name", [None, "a", "heads_2.1-x", "x" * 100], ["", "a/b", "..", ".hidden", "a b", "x" * 101]),
    ],
)
def test_choices(group, name, good, bad):
    key = f"{group}.{name}" if group else name
    for value in good:
        check(with_value(group, name, value))
    for value in bad:
        with pytest.raises(ConfigError) as refused:
            check(with_value(group, name, value))
        assert str(refused.value).startswith(f"{key}={value}: must be ")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"negatives": NegativesConfig("constant", 0.2)}, ["negatives.start=0.2", "negatives=curriculum"]),
        ({"negatives": NegativesConfig("curriculum", None)}, ["negatives.start=null", "from 0 to 1"]),
        ({"loss": LossConfig("study", 0, 0, 0)}, ["loss.triplet=0", "loss.positive=0", "loss.negative=0", "above 0"]),
        ({"loss": LossConfig("study", 1, 0, 0)}, ["evaluation.rerank=10", "loss.positive=0", "none"]),
        ({"model": ModelConfig("minilm")}, ["model.name_or_path=null", "minilm"]),
        ({"model": ModelConfig("tiny", "./no/such")}, ["model.name_or_path=./no/such", "no such directory"]),
        (
            {"model": ModelConfig("tiny", dropout=0.1), "training": TrainingConfig(freeze_encoder=True)},
            ["model.dropout=0.1", "training.freeze_encoder=true"],
        ),
        ({"training": TrainingConfig(fast=False, compile=True)}, ["training.compile=true", "training.fast=false"]),
        ({"logs_dir": __file__}, ["logs_dir=", "is a file"]),
        ({"cache_dir": __file__}, ["cache_dir=", "is a file"]),
    ],
)
def test_settings_that_contradict_or_lead_nowhere(settings, names):
    check(Config(model=TINY))
    with pytest.raises(ConfigError) as refused:
        check(Config(**{"model": TINY} | settings))
    message = str(refused.value)
    assert "\n" not in message
    for name in names:
        assert name in message


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": LossConfig("study", 1, 0, 0), "evaluation": EvaluationConfig("none")},
        {"loss": LossConfig("study", 1, 0, 0), "training": TrainingConfig(epochs=0)},
        {"loss": LossConfig("study", 0, 1, 0)},
        {"negatives": NegativesConfig("curriculum", 0.0)},
        {"model": ModelConfig("minilm", "sentence-transformers/all-MiniLM-L6-v2")},
    ],
)
def test_settings_that_look_odd_and_are_allowed(settings):
    check(Config(**{"model": TINY} | settings))


MISTAKES = [
    # keys and groups that are not there
    (["hed=none"], ["hed=none", "head"]),
    (["neg_ration=0.1"], ["neg_ration=0.1", "neg_ratio"]),
    (["epochs=3"], ["epochs=3", "training.epochs"]),
    (["training.epoch=3"], ["training.epoch=3", "training.epochs"]),
    (["training.max_tokens=64"], ["training.max_tokens=64", "there is no key", "did you mean model.max_tokens?"]),
    (["head.name=relu"], ["head.name=relu", "linear, bilinear, mlp", "biencoder_ablate.heads"]),
    (["loss.seed=1"], ["loss.seed=1", "did you mean seed?"]),
    (["+foo=1"], ["+foo=1", "there is no key foo"]),
    (["++foo=1"], ["++foo=1", "there is no key foo"]),
    (["+training.foo=1"], ["+training.foo=1", "there is no key training.foo"]),
    (["++training.epoch=1"], ["++training.epoch=1", "training.epochs"]),
    (["+training.epochs=2"], ["training.epochs"]),
    (["~head"], ["~head", "none, relu"]),
    (["hydra.foo=1"], ["hydra.foo=1"]),
    # choices
    (["head=nome"], ["head=nome", "layernorm, layernorm_relu, mlp, none, relu"]),
    (["head=null"], ["head=null", "layernorm_relu"]),
    (["head=[none]"], ["head=[none]", "layernorm_relu"]),
    (["data=imagenet"], ["data=imagenet", "arguana, beir, hub, pairs, sample"]),
    (["model=huge"], ["model=huge", "bert_base, minilm, tiny"]),
    (["fusion=sum"], ["fusion=sum", "concat, pooled, retrieval"]),
    (["negatives=linear"], ["negatives=linear", "constant, curriculum"]),
    (["experiment=nope"], ["experiment=nope", "arguana"]),
    (["hydra/launcher=nope"], ["hydra/launcher=nope", "must be one of", "basic"]),
    (["-m", "hydra/launcher=nope", "head=none,relu"], ["hydra/launcher=nope", "must be one of", "basic"]),
    (["hydra/sweeper=basic"], ["hydra/sweeper=basic", "add -m"]),
    (["training.lr=1"], ["training.lr=1", "did you mean training.learning_rate"]),
    (["+logger=wandb"], ["+logger=wandb", "did you mean tracker"]),
    (["hydra/sweeper=nope"], ["hydra/sweeper=nope", "must be one of", "basic"]),
    # Hydra's own settings for what is this program's business
    (["hydra.run.dir=x"], ["hydra.run.dir=x", "logs_dir=DIR"]),
    (["-m", "hydra.sweep.dir=x", "head=none,relu"], ["hydra.sweep.dir=x", "logs_dir=DIR or sweep_name=NAME"]),
    (["-m", "hydra.sweep.subdir=x", "head=none,relu"], ["hydra.sweep.subdir=x", "logs_dir=DIR"]),
    (["hydra.job.chdir=true"], ["hydra.job.chdir=True", "logs_dir=DIR"]),
    (["hydra.output_subdir=x"], ["hydra.output_subdir=x", ".hydra"]),
    (["hydra.verbose=true"], ["hydra.verbose=True", "hydra/job_logging=stdout"]),
    (["--config-path=x"], ["--config-path=x", "--config-dir=DIR"]),
    (["-cp", "x", "seed=1"], ["--config-path=x", "--config-dir=DIR"]),
    (["--experimental-rerun=x.pickle"], ["--experimental-rerun=x.pickle", "rerun=true"]),
    (["+hydra.callbacks.x._target_=no.such.Callback"], ["hydra.callbacks", "no.such.Callback"]),
    (["-m", "hydra.launcher.nope=1", "head=none,relu"], ["hydra.launcher.nope"]),
    (["-m", "hydra.job.name=a,b"], ["hydra.job.name=a,b"]),
    (["-m", "neg_ratio=interval(0,1)"], ["neg_ratio=interval(0,1)", "hydra/sweeper=optuna"]),
    # paths that Hydra's grammar takes apart
    (["data.path=~/x.csv"], ["data.path=~/x.csv", "quote the value: 'data.path=\"~/x.csv\"'"]),
    (["data.path=my data (1).csv"], ["quote the value: 'data.path=\"my data (1).csv\"'"]),
    (["data.path=a=b.csv"], ["quote the value: 'data.path=\"a=b.csv\"'"]),
    (["data.path=a,b.csv"], ["several values need -m", "quotes: 'data.path=\"a,b.csv\"'"]),
    # types
    (["training.epochs=two"], ["training.epochs=two", "an integer of 0 or more"]),
    (["training.epochs=null"], ["training.epochs=null", "an integer"]),
    (["training.batch_size=true"], ["training.batch_size=true", "an integer of 1 or more"]),
    (["neg_ratio=abc"], ["neg_ratio=abc", "a number from 0 to 1"]),
    (["neg_ratio="], ["neg_ratio=", "a number from 0 to 1"]),
    (["data.disjoint=maybe"], ["data.disjoint=maybe", "true or false"]),
    (["evaluation.rerank=1.5"], ["evaluation.rerank=1.5", "all or none"]),
    (["training=5"], ["training=5"]),
    # nothing where a path or a name must be
    (["logs_dir="], ["logs_dir=: must be a directory"]),
    (["cache_dir="], ["cache_dir=: must be null", "a directory"]),
    (["logs_dir='  '"], ["logs_dir=  : must be a directory"]),
    (["data=pairs", "data.path="], ["data.path=: must be", "csv, tsv or jsonl"]),
    (["data=arguana", "data.path="], ["data.path=: must be", "zip"]),
    (["model.name_or_path="], ["model.name_or_path=: must be null, a directory with a text encoder"]),
    (["model=minilm", "model.name_or_path="], ["model.name_or_path=: must be"]),
    (["model.revision="], ["model.revision=: must be null, or a commit"]),
    # ranges; all of them are tried on the schema itself
    (["neg_ratio=1.5"], ["neg_ratio=1.5", "from 0 to 1"]),
    (["neg_ratio=nan"], ["neg_ratio=nan", "from 0 to 1"]),
    (["training.learning_rate=0"], ["training.learning_rate=0", "above 0"]),
    (["training.epochs=-1"], ["training.epochs=-1", "0 or more"]),
    (["++training.epochs=-1"], ["training.epochs=-1", "0 or more"]),
    # data, models, contradictions
    (["data=arguana"], ["data.path", "missing"]),
    (["data.name=csv"], ["data.name=csv", "sample, arguana, pairs", "biencoder_ablate.corpora"]),
    (["data.name="], ["data.name=: must be"]),
    (["data.options=3"], ["data.options=3: must be a mapping"]),
    (["+data.options.column=a"], ["data.options={'column': 'a'}", "data=sample takes none"]),
    (["data=pairs", "data.path=no/such.csv"], ["data.path=no/such.csv", "no such file"]),
    (["model.name_or_path=./no/such"], ["model.name_or_path=./no/such", "no such directory"]),
    (["negatives.start=0.5"], ["negatives.start=0.5", "negatives=curriculum"]),
    (["training.freeze_encoder=true", "model.dropout=0.1"], ["model.dropout=0.1"]),
    # sweeps
    (["head=none,relu"], ["head=none,relu", "-m"]),
    (["seed=range(3)"], ["seed=range(3)", "-m"]),
    (["-m", "head=none,nope"], ["head=nope", "layernorm_relu"]),
    (["-m", "neg_ratio=0.1,2"], ["neg_ratio=2", "from 0 to 1"]),
    (["-m", "hed=none,relu"], ["hed=none,relu", "head"]),
    # asked of Hydra, which would answer with lines of its own, or a traceback
    (["--cfg", "job", "hed=none"], ["hed=none", "head"]),
    (["--cfg=job", "head=nome"], ["head=nome", "layernorm_relu"]),
    (["--cfg", "job", "training.epochs=two"], ["training.epochs=two", "an integer of 0 or more"]),
    (["--cfg", "job", "head"], ["head", "key=value", "missing EQUAL"]),
    (["--cfg", "job", "head=none,relu"], ["head=none,relu", "-m"]),
    (["--cfg", "job", "--resolve", "logs_dir=${nope}"], ["logs_dir=${nope}", "nope"]),
    (["--cfg", "job", "--config-dir=no/such"], ["--config-dir=no/such"]),
    (["--cfg", "bogus"], ["--cfg", "bogus", "'job'", "--help"]),
    (["--cfg"], ["--cfg", "--help"]),
    (["-m", "--cfg", "job"], ["-m", "--cfg"]),
    (["--info", "bogus"], ["--info", "bogus", "'defaults'"]),
    (["--info", "defaults", "hed=none"], ["hed=none", "head"]),
    (["--help", "hed=none"], ["hed=none", "head"]),
    # what is no override at all
    (["head"], ["head: there is no such command", "head=relu"]),
    (["head=none,"], ["head=none,", "key=value"]),
    (["--bogus"], ["--bogus", "--help"]),
    (["--config-dir=no/such"], ["--config-dir=no/such"]),
    (["training.epochs=${nope}"], ["nope"]),
    (["logs_dir=${oc.env:NO_SUCH_VARIABLE}"], ["NO_SUCH_VARIABLE"]),
]


@pytest.mark.parametrize(("arguments", "names"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes_end_in_one_line(arguments, names, empty):
    message = only_error(run_here(arguments, empty), empty)
    for name in names:
        assert name in message


def test_a_missing_device_is_named_before_anything_is_written(empty):
    import torch

    missing = f"cuda:{torch.cuda.device_count()}"
    message = only_error(run_here([f"training.device={missing}"], empty), empty)
    assert f"training.device={missing}" in message and "cpu" in message
    if not torch.backends.mps.is_available():
        message = only_error(run_here(["training.device=mps"], empty), empty)
        assert "training.device=mps" in message and "cpu" in message


@pytest.mark.parametrize("override", ["~data", "~loss", "~training", "~evaluation", "~training.epochs", "~seed"])
def test_nothing_can_be_taken_out(override):
    """What is missing would be filled from the dataclasses: other values than those in the YAML tree."""
    with pytest.raises(ConfigError, match=override.removeprefix("~")):
        load_config([override])


def test_defaults_are_those_of_the_design():
    config = load_config([])
    assert (config.neg_ratio, config.seed, config.logs_dir, config.rerun) == (0.01, 0, "logs", False)
    assert (config.sweep_name, config.cache_dir) == (None, None)
    assert config.data == DataConfig("sample", None, split_seed=0, limit=None, disjoint=False)
    assert config.model == ModelConfig(
        "minilm",
        "sentence-transformers/all-MiniLM-L6-v2",
        pooling="mean",
        max_tokens=256,
        towers="separate",
        similarity="cosine",
        retrieval_dim=None,
        projection_init="identity",
        head_init="zero",
    )
    assert config.head == HeadConfig("linear", "layernorm", "relu", "after_linear2")
    assert config.fusion.name == "concat"
    assert config.negatives == NegativesConfig("constant", per_pair=1)
    weights = {"temperature": 0.05, "retrieval": 1, "head": 1}
    switches = {f"in_batch_{kind}": True for kind in ("counters", "points", "negatives")}
    assert config.loss == LossConfig("contrastive", **weights, **switches)
    assert config.evaluation == EvaluationConfig(rerank=10, select="top1_clean", score="sum", source=False)
    training = config.training
    assert (training.batch_size, training.distinct_pairs, training.optimizer) == (32, True, "adamw")
    assert (training.epochs, training.schedule, training.warmup_ratio) == (3, "linear", 0)
    assert (training.max_grad_norm, training.patience) == (None, None)
    assert (training.freeze_encoder, training.save_model) == (False, True)
    assert (training.device, training.precision) == ("auto", "auto")


def test_recipe_study_is_what_the_source_study_did():
    config = load_config(["recipe=study", "model=tiny"])
    assert config.model == ModelConfig("tiny", None, None, "mean", 128, "shared", "euclidean", retrieval_dim=128)
    assert config.negatives == NegativesConfig("constant")
    assert config.loss == LossConfig("study", triplet=1, positive=1, negative=1, margin=1)
    assert config.evaluation == EvaluationConfig(rerank=10, select="top1", score="head", source=False)
    training = config.training
    assert (training.batch_size, training.optimizer, training.weight_decay) == (8, "adam", 0)
    assert (training.distinct_pairs, training.projection_learning_rate) == (False, None)


def test_a_loss_of_one_s_choice_goes_with_either_recipe():
    assert load_config(["loss=study", "evaluation.score=head"]).loss.name == "study"
    assert load_config(["recipe=study", "loss=contrastive"]).loss.name == "contrastive"


def test_every_key_can_be_asked_for_by_its_name():
    keys = dict(schema_keys())
    assert {"head.norm", "neg_ratio", "training.epochs", "data.path", "evaluation.rerank"} <= set(keys)
    assert all(keys.values()), "a key does not say what is valid"
    with compose_command(parse_arguments([])) as command:
        for key in keys:
            OmegaConf.select(command.base, key, throw_on_missing=True)


@pytest.mark.parametrize(
    ("name", "norm", "activation"),
    [
        ("none", "none", "none"),
        ("layernorm", "layernorm", "none"),
        ("relu", "none", "relu"),
        ("layernorm_relu", "layernorm", "relu"),
    ],
)
def test_head_choices_are_named_as_they_are_asked_for(name, norm, activation):
    head = load_config([f"head={name}"]).head
    assert head == HeadConfig("linear", norm, activation, "after_linear2")
    assert head_name(head) == name


def test_every_choice_of_every_group_sets_what_it_says(tmp_path):
    table = write_pairs_csv(tmp_path / "pairs.csv", make_pairs())
    assert load_config(["data=pairs", f"data.path={table}"]).data == DataConfig("pairs", str(table))
    assert load_config(["fusion=pooled"]).fusion.name == "pooled"
    assert load_config(["fusion=retrieval"]).fusion.name == "retrieval"
    assert load_config(["negatives=curriculum"]).negatives == NegativesConfig("curriculum", 0.2)
    minilm, bert = load_config(["model=minilm"]), load_config(["model=bert_base"])
    assert (minilm.model.pooling, minilm.model.max_tokens) == ("mean", 256)
    assert (bert.model.pooling, bert.model.max_tokens) == ("pooler", 512)


@pytest.mark.parametrize(
    "choice",
    [f"model={name}" for name in ("tiny", "minilm", "bert_base")] + [f"experiment={name}" for name in EXPERIMENTS],
)
def test_what_a_choice_sets_is_not_overridden_by_the_defaults(choice):
    """Some set keys outside their own group, as a model its learning rate: config.yaml must come before them."""
    group, _, name = choice.partition("=")
    written = yaml.safe_load((conf_directory() / group / f"{name}.yaml").read_text("utf-8")) or {}
    params = set(written.pop("hydra", {}).get("sweeper", {}).get("params", {}))
    written.pop("defaults", None)
    config = to_config_unchecked([choice])
    for key, value in leaves(written):
        if key not in params:
            assert attrgetter(key)(config) == value, key


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_command_line_has_the_last_word():
    """Over presets and over what a model choice sets, in whatever order it is typed."""
    config = load_config(["training.learning_rate=0.5", "model.pooling=cls", "model=minilm", "experiment=none"])
    assert config.training.learning_rate == 0.5
    assert (config.model.name, config.model.pooling) == ("minilm", "cls")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["without=towers", "model.towers=separate"],
            "model.towers=separate: overrules without=towers, which sets model",
        ),
        (["without=plus_gelu", "head=none"], "head=none: overrules without=plus_gelu, which sets head=gelu"),
        (["without=towers", "model.towers=shared"], ""),
        (["without=nothing", "head=none"], ""),
    ],
)
def test_what_a_part_taken_out_sets_is_not_overruled_in_silence(tmp_path, overrides, message):
    (tmp_path / "without").mkdir()
    own = "# @package _global_\ndefaults:\n  - override /head: gelu\n"
    (tmp_path / "without" / "plus_gelu.yaml").write_text(own, "utf-8")
    for arguments in (overrides, ["-m", *overrides, "seed=0,1"]):

        def compose(arguments=arguments):
            with compose_command(parse_arguments(["--config-dir", str(tmp_path), "model=tiny", *arguments])) as command:
                command.configs(command.jobs())

        if message:
            with pytest.raises(ConfigError, match=message):
                compose()
        else:
            compose()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_passes_its_checks(name, tmp_path):
    corpus = write_arguana_tree(tmp_path / "corpus", make_pairs())
    table = write_pairs_csv(tmp_path / "pairs.csv", make_pairs())
    data = to_config_unchecked([f"experiment={name}"]).data.name
    path = {"sample": [], "arguana": [f"data.path={corpus}"], "pairs": [f"data.path={table}"]}[data]
    with compose_command(parse_arguments([f"experiment={name}", *path])) as command:
        if command.sweeper != "BasicSweeper":  # it chooses the jobs one after the other
            check(to_config(command.base))
            return
        jobs = [tuple(sorted(job)) for job in command.jobs()]
        assert jobs and len(set(jobs)) == len(jobs), "a sweep asks for the same run twice"
        assert all(isinstance(config, Config) for config in command.configs(command.jobs()))


@pytest.mark.parametrize(
    "overrides",
    [
        ["-m", "head=none,relu", "seed=0,1", "training.epochs=2"],
        ["-m", "head=none,relu", "seed=${training.epochs},5", "logs_dir=${hydra.job.name}"],
        ["-m", "neg_ratio=0.1,0.2", "negatives=constant,curriculum", "experiment=arguana", "data.path=x"],
        [
            "-m",
            "training.epochs=3,4",
            "++training.epochs=5",
            "evaluation={rerank: 2, source: true}",
            "evaluation.rerank=3",
        ],
        [
            "-m",
            "evaluation.rerank=3,4",
            "evaluation={rerank: 2, source: true}",
            "data.path='a, b=c.zip'",
            "recipe=study,contrastive",
        ],
        ["-m", "model=minilm", "model.name_or_path=null,x", "hydra.job.chdir=false", "evaluation.rerank=5,all"],
        ["-m", "hydra/launcher=basic", "model.pooling=cls", "model=tiny,bert_base", "sweep_name='7'"],
        ["experiment=heads", "head=none,relu", "seed=0,3", "data.path=x", "training.head_learning_rate=1e-4"],
        ["experiment=source_study", "data.path=x", "model.dropout=null,0.1"],
    ],
    ids=" ".join,
)
def test_each_job_of_a_sweep_is_composed_as_hydra_composes_it(overrides):
    """The jobs share what their groups make up; Hydra's own composing of each is what it must come to."""
    with compose_command(parse_arguments(overrides)) as command:
        jobs = command.jobs()
        assert len(jobs) > 1
        jobs.append(jobs[0][:-1])  # nothing of one job may be left in the next
        for job, ours in zip(jobs, command.configs(jobs, checked=False), strict=True):
            theirs = hydra.compose("config", [*command.base.hydra.overrides.hydra, *job], return_hydra_config=True)
            untyped = OmegaConf.create(OmegaConf.to_container(theirs, resolve=True))
            assert repr(ours) == repr(to_config(untyped, checked=False))


def test_what_follows_a_swept_key_follows_it_in_each_job():
    """`${seed}` is the seed of the job, not the one that the config has without the sweep."""
    overrides = ["-m", "seed=3,4", "data.split_seed=${seed}", "sweep_name=s${seed}", "model.name_or_path='/enc${seed}'"]
    with compose_command(parse_arguments(overrides)) as command:
        assert command.jobs()[0][:2] == ["seed=3", "data.split_seed=${seed}"]
        configs = command.configs(command.jobs(), checked=False)
    names = [(config.data.split_seed, config.sweep_name, config.model.name_or_path) for config in configs]
    assert names == [(3, "s3", "/enc3"), (4, "s4", "/enc4")]


@pytest.mark.parametrize("word", ["None", "none", "False", "true"])
@pytest.mark.parametrize(
    "key", ["model.point_prompt", "model.candidate_prompt", "cache_dir", "sweep_name", "model.revision", "logs_dir"]
)
def test_a_word_for_null_is_no_text(key, word):
    """As a prompt it would stand before every text, and as a directory it would be made."""
    with pytest.raises(ConfigError) as refused:
        load_config([f"{key}={word}"])
    assert str(refused.value).lower().startswith(f"{key}={word}: ".lower())
    assert "must be null" in str(refused.value) or key == "logs_dir"


def test_a_word_that_is_quoted_is_meant():
    assert load_config(['model.point_prompt="None"']).model.point_prompt == "None"
    assert load_config(["model.point_prompt='true'"]).model.point_prompt == "true"
    assert load_config(["model.point_prompt=null"]).model.point_prompt is None
    for values in ('null,"None"', '"query: ",null'):
        with compose_command(parse_arguments(["-m", f"model.point_prompt={values}"])) as command:
            assert len(command.jobs()) == 2
    sweep = parse_arguments(["-m", "model.point_prompt=null,None"])
    with pytest.raises(ConfigError) as refused, compose_command(sweep):
        pass
    assert str(refused.value).endswith("quote it twice if the word is meant: 'model.point_prompt=\"None\"'")


@pytest.mark.parametrize("key", ["data.path", "logs_dir", "cache_dir", "model.name_or_path", "model.finetuned"])
def test_a_home_of_nobody_is_no_path(key):
    with pytest.raises(ConfigError) as refused:
        load_config([f"{key}='~nobody-of-that-name/x'"])
    assert str(refused.value) == (
        f"{key}=~nobody-of-that-name/x: no such user here; write ./~nobody-of-that-name/x for a file of that name"
    )


BROKEN_YAML = {
    "tab": "a:\n\tb: 1\n",
    "twice": "seed: 1\nseed: 2\n",
    "open": "seed: [1\n",
    "loop": "defaults:\n  - loop\n",
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)),
}


@pytest.mark.parametrize("name", BROKEN_YAML)
def test_broken_yaml_of_one_s_own_ends_in_one_line(name, tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / f"{name}.yaml").write_text(BROKEN_YAML[name])
    arguments = parse_arguments([f"--config-dir={tmp_path}", f"recipe={name}"])
    with pytest.raises(ConfigError, match="cannot be read as YAML") as refused, compose_command(arguments):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("override", ["seed=range(0,0)", "head=glob(nothing*)"])
def test_a_sweep_over_no_value_is_refused(override):
    with compose_command(parse_arguments(["-m", override])) as command, pytest.raises(ConfigError) as refused:
        command.jobs()
    assert str(refused.value) == f"{override}: has no values"


def to_config_unchecked(overrides):
    with compose_command(parse_arguments(overrides)) as command:
        return to_config(command.base, checked=False)


def test_every_yaml_begins_with_the_command_that_uses_it():
    for path in sorted(conf_directory().rglob("*.yaml")):
        if path.parent.name in ("help", "conf") or "hydra" in path.relative_to(conf_directory()).parts:
            continue
        head = [line for line in path.read_text("utf-8").splitlines()[:3] if line.startswith("# ")]
        command = f"{path.parent.name}={path.stem}"
        assert any(command in line for line in head) or path.stem == "none", f"{path}: no line with {command}"


def test_the_cache_is_where_it_is_asked_for(monkeypatch, tmp_path):
    assert cache_directory(Config(cache_dir=str(tmp_path))) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory(Config()) == tmp_path / "xdg" / "biencoder-ablate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Path(tmp_path / "home") in cache_directory(Config()).parents


@pytest.mark.parametrize("cache_dir", [None, "~/cache", "~nobody-of-this-name/cache"])
def test_without_a_home_directory_a_cache_must_be_named(cache_dir, monkeypatch):
    """As in a container whose user no file of it knows."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=rf"^cache_dir={cache_dir or 'null'}: .* must be a directory$"):
        cache_directory(Config(cache_dir=cache_dir))
    assert cache_directory(Config(cache_dir="/named")) == Path("/named")


def test_a_message_shows_a_value_without_its_control_characters_and_not_all_of_a_long_one():
    assert str(ConfigError("sweep_name=\x1b[2J\n: must be a name")) == r"sweep_name=\x1b[2J\n: must be a name"
    long = str(ConfigError(f"data.path={'x' * 100_000}: no such file"))
    assert len(long) == 1500 and long.startswith("data.path=xxx") and long.endswith("xxx: no such file")
    assert str(pickle.loads(pickle.dumps(ConfigError("a\nb")))) == r"a\nb"
