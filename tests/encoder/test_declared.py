"""What a sentence-transformers directory says of itself, and what a run says where it does otherwise."""

from __future__ import annotations

import json
import shutil

import pytest
from support.helpers import run_here

from biencoder_ablate.config.schema import Config, ModelConfig, cache_directory
from biencoder_ablate.encoder.declared import differences
from biencoder_ablate.encoder.tiny import make_tiny


@pytest.fixture
def encoder(tmp_path):
    """model=tiny, in the files that versions 2 to 5 of the library write."""
    directory = shutil.copytree(make_tiny(cache_directory(Config())), tmp_path / "encoder")
    (directory / "1_Pooling").mkdir()
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in paths.items()]
    prompts = {"query": "query: ", "passage": "passage: "}
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    return directory


def test_a_run_says_in_what_it_differs(encoder, tmp_path):
    given = ("model=tiny", f"model.name_or_path={encoder}", "training.epochs=0", "training.freeze_encoder=true")
    ended = run_here([*given, "evaluation.rerank=none", "data.limit=2"], tmp_path)
    warnings = [line for line in ended.stdout.splitlines() if line.startswith("model      warning: ")]
    assert [line.removeprefix("model      warning: ") for line in warnings] == [
        "1_Pooling/config.json pools by cls, this run by model.pooling=mean",
        "sentence_bert_config.json has max_seq_length 32, this run model.max_tokens=128",
        'config_sentence_transformers.json has the prompt "query: ", this run model.point_prompt=null',
        'config_sentence_transformers.json has the prompt "passage: ", this run model.candidate_prompt=null',
    ]


def test_a_run_that_does_as_it_says_says_nothing(encoder):
    same = ModelConfig(pooling="cls", max_tokens=32, point_prompt="query: ", candidate_prompt="passage: ")
    assert differences(encoder, same) == []
    assert differences(make_tiny(cache_directory(Config())), ModelConfig()) == []


def test_what_is_no_such_file_says_nothing(encoder):
    for name in ("1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (encoder / name).write_text("[" * 100_000)
    assert differences(encoder, ModelConfig()) == []


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_read_as_the_library_itself_writes(pooling, tmp_path):
    library = pytest.importorskip("sentence_transformers")  # the extra `export`
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    transformer = Transformer(str(make_tiny(cache_directory(Config()))), max_seq_length=48)
    modules = [transformer, Pooling(512, pooling_mode=pooling), Dense(512, 8)]
    made = library.SentenceTransformer(modules=modules, prompts={"query": "Q: ", "document": ""}, device="cpu")
    made.save(str(tmp_path / "made"))
    assert differences(tmp_path / "made", ModelConfig(pooling="pooler", max_tokens=48)) == [
        f"1_Pooling/config.json pools by {pooling}, this run by model.pooling=pooler",
        "modules.json has Dense as well, which this run leaves out",
        'config_sentence_transformers.json has the prompt "Q: ", this run model.point_prompt=null',
    ]
    assert library.SentenceTransformer(str(tmp_path / "made"), device="cpu").max_seq_length == 48
