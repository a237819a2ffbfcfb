"""Operations counted by formula against torch's own counter, and the share of a GPU's best in a run's log."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from biencoder_ablate.config.compose import load_config
from biencoder_ablate.encoder.device import forward_flops, peak_flops
from biencoder_ablate.training.loop import embed, make_optimizer, train_epoch
from biencoder_ablate.training.plan import build_components, make_plan
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import World

CONFIG = BertConfig(
    vocab_size=30, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
    max_position_embeddings=16, attn_implementation="eager",
)  # fmt: skip


@pytest.mark.parametrize("length", [1, 7, 16])
def test_operations_are_those_that_torch_counts(length):
    encoder = BertModel(CONFIG, add_pooling_layer=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros((2, length), dtype=torch.int64))
    assert forward_flops(CONFIG, np.array([length, length])).sum() == counter.get_total_flops()


def test_only_a_known_gpu_in_bf16_has_a_best():
    assert peak_flops("cuda:0 (NVIDIA H100 80GB HBM3)", "bf16") == 989.4e12
    assert peak_flops("cuda:0 (NVIDIA H100 PCIe)", "bf16") == 756e12
    assert peak_flops("cuda:0 (NVIDIA H100 NVL)", "bf16") == 835e12
    assert peak_flops("cuda:0 (NVIDIA A100-SXM4-80GB)", "bf16") == 312e12
    for other in ("NVIDIA RTX A1000", "NVIDIA L40", "NVIDIA A10G"):  # not an A100, an L4, an A10
        assert peak_flops(f"cuda:0 ({other})", "bf16") is None
    assert peak_flops("cuda:0 (NVIDIA H100 80GB HBM3)", "fp32") is None
    assert peak_flops("cpu", "bf16") is None


def test_an_epoch_says_what_share_of_the_best_it_reached(tmp_path):
    config = load_config(["model=tiny", "data.limit=6", "model.max_tokens=32", f"cache_dir={tmp_path}"])
    parts = build_components(make_plan(config), RunLog(None, quiet=True), World())
    context = dataclasses.replace(parts.context, peak_flops=1e12)
    optimizer = make_optimizer(context.model, config)
    record = train_epoch(context, optimizer, 0, 0, embed(context)).record
    # model=tiny: one layer, 512 wide, 256 inside; texts cut at 32 tokens, so that attention's share is known within 1%.
    per_token = 8 * 512**2 + 4 * 512 * 256 + 4 * 512 * 32
    assert record["flop_utilisation"] == pytest.approx(3 * record["tokens_per_second"] * per_token / 1e12, rel=0.01)
