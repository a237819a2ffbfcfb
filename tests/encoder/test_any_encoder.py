"""Encoders of other architectures than BERT, tiny and with random weights, made here with tokenizers of their own."""

import json
import shutil

import numpy as np
import pytest
import torch
from support.helpers import load_sample, run_here, train
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertTokenizer,
    ModernBertConfig,
    MPNetConfig,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
    T5Config,
)

import biencoder_ablate
from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.encoder.pretrained import ModelSource, load_encoder, load_tokenizer
from biencoder_ablate.encoder.texts import EncodeSettings, open_encoder
from biencoder_ablate.evaluate import evaluate
from biencoder_ablate.training import experiment

CPU = torch.device("cpu")
KINDS = ("roberta", "distilbert", "modernbert", "mpnet")
TEXTS = list(build_table(load_sample()).texts[:12])
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
POSITIONS = 40


def make_tokenizer(kind):
    """Of the class that models of the kind come with: byte pairs for RoBERTa and ModernBERT, else word pieces."""
    is_own = kind in ("roberta", "mpnet")
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if is_own else ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    special = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), names, strict=True))
    if kind in ("roberta", "modernbert"):
        learned = Tokenizer(models.BPE(unk_token=names[3]))
        learned.pre_tokenizer, learned.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        learned = Tokenizer(models.WordPiece(unk_token=names[3]))
        learned.normalizer, learned.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=names, show_progress=False)
    learned.train_from_iterator(TEXTS, trainer)
    if kind == "modernbert":
        around = [(name, names.index(name)) for name in (names[0], names[2])]
        template = f"{names[0]} $A {names[2]}"
        learned.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
        return PreTrainedTokenizerFast(tokenizer_object=learned, **special)
    model = json.loads(learned.to_str())["model"]
    if kind == "roberta":
        return RobertaTokenizer(model["vocab"], [tuple(merge) for merge in model["merges"]])
    return {"distilbert": DistilBertTokenizer, "mpnet": MPNetTokenizer}[kind](model["vocab"], **special)


def make_encoder(kind, directory):
    """Weights so large that a text's output depends on every token and its place; returns `directory`."""
    tokenizer = make_tokenizer(kind)
    shape = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = {
        "roberta": lambda: RobertaConfig(**SMALL, **shape, max_position_embeddings=POSITIONS + 2),
        "distilbert": lambda: DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=POSITIONS, **shape
        ),
        "modernbert": lambda: ModernBertConfig(**SMALL, **shape, max_position_embeddings=POSITIONS),
        "mpnet": lambda: MPNetConfig(**SMALL, **shape, max_position_embeddings=POSITIONS + 2),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config).float()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(0, 0.2)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return {kind: make_encoder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def reference(directory, texts, pooling, max_tokens):
    """h by transformers alone: its own padding, cutting and mask."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    with torch.no_grad():
        output = model(**batch)
    if pooling == "pooler":
        return output.pooler_output
    if pooling == "cls":
        return output.last_hidden_state[:, 0]
    kept = batch["attention_mask"][:, :, None]
    return (output.last_hidden_state * kept).sum(1) / kept.sum(1)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_out_as_transformers_itself_has_them(kind, pooling, directories):
    texts = ["No", *(text[: 7 * i] for i, text in enumerate(TEXTS, start=1)), TEXTS[0] * 3]
    source = ModelSource(kind, directories[kind], "")
    if pooling == "pooler" and kind in ("distilbert", "modernbert"):
        with pytest.raises(ConfigError, match=rf"model.pooling=pooler: a {kind} model has no pooler; must be mean or"):
            open_encoder(source, EncodeSettings(pooling, POSITIONS, CPU))
        return
    encoder = open_encoder(source, EncodeSettings(pooling, POSITIONS, CPU))
    assert encoder.tokens(texts).lengths.max() == POSITIONS < encoder.num_tokens(texts[-1])
    expected = reference(directories[kind], texts, pooling, POSITIONS)
    assert torch.pdist(expected).min() > 0.01, "texts are told apart, so that a wrong order would be seen"
    torch.testing.assert_close(encoder(texts), expected, rtol=0, atol=1e-4)
    one_by_one = torch.cat([encoder([text]) for text in texts])
    torch.testing.assert_close(one_by_one, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_on_a_cpu_is_near_and_not_the_same(kind, directories):
    source = ModelSource(kind, directories[kind], "")
    h, rounded = (
        open_encoder(source, EncodeSettings("mean", POSITIONS, CPU, precision))(TEXTS) for precision in ("fp32", "bf16")
    )
    assert rounded.dtype == torch.float32 and not torch.equal(h, rounded)
    assert torch.cosine_similarity(h, rounded).min() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_falls_where_the_kind_has_it(kind, directories):
    encoder = open_encoder(ModelSource(kind, directories[kind], ""), EncodeSettings("mean", POSITIONS, CPU), 0.5)
    texts = encoder.over(encoder.tokens(TEXTS))
    with torch.no_grad():
        assert torch.equal(texts.all_pooled(), texts.all_pooled())
        encoder.module.train()
        assert not torch.allclose(texts.pooled(np.arange(4)), texts.pooled(np.arange(4)), atol=0.01)
    assert {module.p for module in encoder.module.modules() if isinstance(module, torch.nn.Dropout)} == {0.5}


@pytest.mark.parametrize("kind", KINDS)
def test_more_tokens_than_positions_are_refused(kind, directories):
    with pytest.raises(ConfigError, match=f"model.max_tokens=41: this encoder has {POSITIONS} positions"):
        load_encoder(directories[kind], "mean", POSITIONS + 1, None)


ONE_NOW = ["roberta", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
SETTINGS = ("data.limit=3", "model.pooling=mean", "model.max_tokens=16", "training.epochs=2")


@pytest.mark.parametrize("kind", ONE_NOW)
def test_a_run_is_trained_resumed_saved_loaded_and_evaluated(kind, directories, tmp_path, monkeypatch):
    settings = [*SETTINGS, f"model.name_or_path={directories[kind]}"]
    run = train(tmp_path, *settings, "logs_dir=logs")
    figures = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in figures] == [-1, 0, 1] and figures[2]["loss"] != figures[1]["loss"]

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train_epoch", stopping_before(1, experiment.train_epoch))
        assert run_here([*settings, "logs_dir=again"], tmp_path).returncode == 130
    ended = run_here([*settings, "logs_dir=again"], tmp_path)
    assert "going on after epoch 0" in ended.stdout
    resumed = tmp_path / "again" / "runs" / run.name
    assert (resumed / "rankings.jsonl").read_bytes() == (run / "rankings.jsonl").read_bytes()
    assert (resumed / "top1.csv").read_bytes() == (run / "top1.csv").read_bytes()

    report = evaluate(run, [], quiet=True)
    assert report["measured"]["test"]["top1"] == report["own"]["test"]["top1"]
    text = load_sample().test[0].point
    assert biencoder_ablate.load(run).retrieve(text, TEXTS, k=2).distance[0, 0] >= 0
    assert type(load_encoder(run / "model" / "encoder", "mean", 16, None)).__name__.lower().startswith(kind)


@pytest.mark.parametrize("kind", ONE_NOW)
def test_frozen_features(kind, directories, tmp_path):
    settings = (f"model.name_or_path={directories[kind]}", "training.freeze_encoder=true", "training.epochs=1")
    run = train(tmp_path, *SETTINGS[:3], *settings)
    report = evaluate(run, [], quiet=True)
    assert report["measured"]["val"]["mrr"] == report["own"]["val"]["mrr"]


def stopping_before(epoch, train_epoch):
    """`train_epoch`, but Ctrl-C comes when `epoch` is to begin."""

    def begin(context, optimizer, number, *rest):
        if number == epoch:
            raise KeyboardInterrupt
        return train_epoch(context, optimizer, number, *rest)

    return begin


def test_what_is_no_text_encoder_is_refused(directories, tmp_path):
    T5Config(vocab_size=10, d_model=8).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a t5 model; must be a text encoder"):
        load_encoder(tmp_path, "mean", 16, None)
    broken = shutil.copytree(directories["modernbert"], tmp_path / "no_special_tokens")
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    with pytest.raises(ConfigError, match="puts no special token"):
        load_tokenizer(broken, 16)
    source = ModelSource("roberta", directories["roberta"], "")
    with pytest.raises(ConfigError, match=r"training.compile=true: .* not for roberta"):
        open_encoder(source, EncodeSettings("mean", 16, CPU, compiled=True))
