"""The CUDA path without a GPU: whole runs on a device that says cuda:0 and computes on the CPU.

Caught: tensors of two devices in one op, wrong types under CUDA's autocast, what FlashAttention's own checks refuse,
ops without the arguments given, wrong figures of anything but kernels, values read before they have come, and host
waits in the training loop. Not caught: what only kernels do (their rounding, races, speed, memory), several GPUs,
torch.compile. docs/gpu.md says more.
"""

import json
import os
import re
import shutil
import sys

import pytest
import torch
from support.helpers import REPOSITORY, run_python

HEADS = sorted(path.stem for path in (REPOSITORY / "conf" / "head").glob("*.yaml"))
CALLS = {"study": 300, "contrastive": 480, "in turns": 400, "pooler": 300, "frozen": 160}
"""Ops that launch something, of a training step of three layers. Lower them when the code gets better."""
PINNED = re.search(r"^torch==(\S+)$", (REPOSITORY / "constraints.txt").read_text("utf-8"), flags=re.MULTILINE)[1]

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or sys.platform != "linux", reason="takes CUDA's place, on Linux"
)


def missing(torch_version, compiler):
    """What the emulator needs and does not have, or None."""
    if compiler is None:
        return "needs a C++ compiler, named c++"
    if torch_version.split("+")[0] != PINNED:
        return f"knows the insides of torch {PINNED} only"
    return None


def skip_or_fail(reason):
    """In continuous integration nobody reads what was skipped, and the GPU would lose its only test in silence."""
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.mark.parametrize(("torch_version", "compiler"), [(PINNED, None), ("1.0.0", "/usr/bin/c++")])
def test_what_it_needs_must_be_there_in_continuous_integration(torch_version, compiler, monkeypatch):
    reason = missing(torch_version, compiler)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"needs a C|knows the insides"):
        skip_or_fail(reason)
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match=r"needs a C|knows the insides"):
        skip_or_fail(reason)
    assert missing(f"{PINNED}+cpu", "/usr/bin/c++") is None


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    skip_or_fail(missing(torch.__version__, shutil.which("c++")))
    here = REPOSITORY / "tests" / "support"
    ended = run_python([here / "runs_without_cuda.py"], tmp_path_factory.mktemp("cuda"), timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    "case", ["study", "contrastive", "plain path", "in turns", "margin", *(f"head={head}" for head in HEADS)]
)
def test_in_float32_it_gives_what_the_cpu_gives(found, case):
    cuda, cpu = found[f"same: {case}"]
    assert cuda["figures"] == cpu["figures"]
    assert cuda["loss"] == pytest.approx(cpu["loss"], abs=1e-5)


def test_a_finished_run_is_evaluated_and_asked_as_on_the_cpu(found):
    cuda, cpu = found["opened"]
    assert cuda.pop("margins") == pytest.approx(cpu.pop("margins"), abs=1e-5)
    assert cuda == cpu


def test_an_interrupted_run_goes_on_as_if_it_had_never_stopped(found):
    whole, resumed = found["resumed"]
    assert resumed == whole


@pytest.mark.parametrize("case", CALLS)
def test_the_host_waits_for_nothing_in_a_training_step_and_launches_little(found, case):
    step = found["steps"][case]
    assert step["steps"] == 6, "two of them are looked at"
    assert step["waits"] == {} and step["blocking"] == {}
    assert step["calls"] <= CALLS[case]


def test_deterministic_kernels_launch_as_much_and_what_has_none_is_refused(found):
    seen = found["deterministic"]
    assert seen["steps"][0] == seen["steps"][1], "calls, waits, uploads and the loss"
    never, always = seen["flash"]
    assert never == 0 and always > 0
    assert seen["refused"] == (
        "training.deterministic=true: torch has no deterministic aten.cumsum on cuda:0; must be false with this "
        "configuration"
    )


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_the_encoder_and_its_gradients_in_bf16_are_near_float32(found, pooling):
    errors = found["encoder"][pooling]
    assert errors["h"] < 0.03 and errors["gradients"] < 0.03
    assert errors["h keeps more than bf16"]


def test_texts_in_turns_draw_the_same_dropout_again(found):
    assert found["turns"] < 0.02


def test_dropout_falls_as_often_as_in_the_plain_path(found):
    assert found["dropout"] == pytest.approx(1.0, abs=0.1)


def test_out_of_memory_it_says_which_key_to_lower_and_to_what(found):
    plain, in_turns = found["memory"]
    # 3 pairs of 3 texts of 40 tokens, 3 layers of 22 × 32 + 4 × 40 bytes, and 16 bytes a weight.
    assert plain.startswith("out of memory on cuda:0, which has 85.9 GB; a step of 3 pairs asks for up to 0.00")
    assert "3 kB a token; add training.micro_batch=auto: the same run then goes on" in plain
    assert "or try training.batch_size=1, which is another run" in in_turns


def test_nothing_is_in_float64_on_the_device(found):
    """Apple's GPU has none."""
    assert found["doubles"] == {}


def test_a_gpu_before_ampere_is_used_in_float32(found):
    in_float32, in_bf16 = found["T4"]
    assert in_float32 < 4 and in_bf16 < 4  # bf16, where it is asked for, without FlashAttention
