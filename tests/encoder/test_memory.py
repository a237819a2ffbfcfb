"""What bounds the memory of training on a CPU."""

import os
import sys

import pytest
from support.helpers import start

from biencoder_ablate.encoder.device import keep_step_kernels, release_memory

# Two thousand blocks of 100 kB, every second one freed: what glibc keeps for blocks that never come.
GAPS = """
import ctypes
from pathlib import Path

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def leave_gaps():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(100_000) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[::2]:
        libc.free(block)
"""
PROGRAM = f"""
{GAPS}
from biencoder_ablate.encoder.device import release_memory

leave_gaps()
before = held()
print(release_memory(), before - held())
"""
EPOCHS = f"""
{GAPS}
import os
import sys
from biencoder_ablate.config.schema import Config, DataConfig, ModelConfig, TrainingConfig
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.training.plan import build_components, make_plan
from biencoder_ablate.training.loop import HAND_BACK_STEPS, embed, make_optimizer, train_epoch
from biencoder_ablate.utils.distributed import World

batch_size, micro_batch = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
training = TrainingConfig(batch_size=batch_size, micro_batch=micro_batch, device="cpu", precision="fp32")
config = Config(data=DataConfig(limit=4), model=ModelConfig("tiny", max_tokens=8), training=training)
context = build_components(make_plan(config), RunLog(None, quiet=True), World()).context
optimizer, before = make_optimizer(context.model, config), embed(context)
train_epoch(context, optimizer, 0, 0, before)
leave_gaps()
full = held()
step = train_epoch(context, optimizer, 1, 0, before).step
print(step, step >= HAND_BACK_STEPS, full - held(), os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"])
"""


def test_onednn_keeps_code_for_the_shapes_of_a_step_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    for num_texts, kept in ((24, "208"), (10_000, "1024")):
        keep_step_kernels(num_texts)
        assert os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == kept
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    keep_step_kernels(24)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked")
def test_gaps_between_blocks_are_handed_back(tmp_path):
    handed_back, less = start(["-c", PROGRAM], tmp_path).communicate()[0].split()
    if handed_back == "False":
        pytest.skip("this C library has no malloc_trim")
    assert int(less) > 40_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked")
@pytest.mark.parametrize(
    ("arguments", "steps", "kept"),
    [(("1",), "32 True", "82"), (("32", "auto"), "1 False", "256")],  # 64 + 6 · 3 texts a step; 64 + 6 · 32 in turns
)
def test_an_epoch_of_a_trained_encoder_hands_gaps_back(tmp_path, monkeypatch, arguments, steps, kept):
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    if not release_memory():
        pytest.skip("this C library has no malloc_trim")
    *seen, less, products = start(["-c", EPOCHS, *arguments], tmp_path).communicate()[0].split()
    assert " ".join(seen) == steps and products == kept
    assert int(less) > 30_000_000
