"""A long encoding that is interrupted goes on after its last finished part, bit-equal, and says how long it takes."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from support.helpers import run_python, run_ranks
from support.interrupted_encoding import TEXTS, encode

from biencoder_ablate.encoder import features as encoding
from biencoder_ablate.encoder import texts as model_texts
from biencoder_ablate.encoder.pretrained import ModelSource, load_tokenizer
from biencoder_ablate.encoder.texts import EncodedTexts
from biencoder_ablate.encoder.tiny import make_tiny
from biencoder_ablate.utils.console import RunLog


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return ModelSource("tiny", make_tiny(tmp_path_factory.mktemp("model")), "tiny")


@pytest.fixture
def source(tiny, monkeypatch):
    """model=tiny, a batch of which is a few texts and a part of which is some batches; else parts are for minutes."""
    monkeypatch.setitem(model_texts.EVAL_TOKEN_BUDGET, "cpu", 100)
    monkeypatch.setattr(encoding, "GROUPS_PER_PART", 5)
    return tiny


def left(cache):
    """How the names end of what an encoding leaves, beside the lock and checksums."""
    paths = [path for path in (cache / "features").iterdir() if path.suffix not in (".lock", ".sha256")]
    return sorted(path.name.split(".")[-1] for path in paths)


def stopping_after(number, save):
    """`save_features`, but Ctrl-C comes when `number` files are written."""
    written = []

    def save_then_stop(path, features):
        save(path, features)
        written.append(path)
        if len(written) == number:
            raise KeyboardInterrupt

    return save_then_stop


def exchange(part):
    """Another part's content, whole and with a checksum that fits, but of fewer texts."""
    features = np.load(part)[1:]
    encoding.save_features(part, features)


DAMAGES = {
    "none": (3, lambda parts: None),
    "last part cut": (2, lambda parts: parts[-1].write_bytes(b"\x93NUMPY")),
    "first part cut": (0, lambda parts: parts[0].write_bytes(b"\x93NUMPY")),
    "one number changed": (1, lambda parts: parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"\x01")),
    "another part's": (1, lambda parts: exchange(parts[1])),
    "no checksum": (2, lambda parts: parts[-1].with_name(f"{parts[-1].name}.sha256").unlink()),
}
"""How many parts are still believed, and what was done to them."""


@pytest.mark.parametrize(("whole_parts", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_it_goes_on_after_the_last_finished_part(whole_parts, damage, source, tmp_path, monkeypatch, capsys):
    whole = encode(source, tmp_path / "whole")
    assert left(tmp_path / "whole") == ["npy"], "nothing but the features stays"

    encoded, eval_pooled = [], EncodedTexts.eval_pooled
    monkeypatch.setattr(
        EncodedTexts, "eval_pooled", lambda self, rows, *rest: (encoded.append(rows), eval_pooled(self, rows, *rest))[1]
    )
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoding, "save_features", stopping_after(3, encoding.save_features))
        encode(source, cache)
    assert left(cache) == ["parts"] and len(encoded) == 3, "no features that are not whole"
    parts = sorted((cache / "features").glob("*.parts/*.npy"))
    damage(parts)
    kept = sum(len(rows) for rows in encoded[:whole_parts])
    del encoded[:]
    assert torch.equal(encode(source, cache, RunLog(None)), whole)
    assert sum(map(len, encoded)) == len(TEXTS) - kept and left(cache) == ["npy"]
    said = capsys.readouterr().out
    assert (f"interrupted: {kept} of {len(TEXTS)} texts are done" in said) == (kept > 0)


@pytest.mark.parametrize("number", [0, 17], ids=["texts", "width"])
def test_features_of_another_shape_are_not_believed(number, source, tmp_path, capsys):
    """Whole, and with a checksum that fits, as when a cache is copied together wrongly."""
    cache = tmp_path / "cache"
    whole = encode(source, cache)
    (path,) = (cache / "features").glob("*.npy")
    features = np.load(path)
    encoding.save_features(path, features[1:] if number == 0 else features[:, :number])
    assert torch.equal(encode(source, cache), whole)
    assert "is damaged (ValueError: holds float32 (" in capsys.readouterr().err


SHARED = """
import numpy as np, torch
from support.encoders import CPU, make_encoder, make_tokens
from biencoder_ablate.encoder.texts import EncodedTexts, packed_encoder
from biencoder_ablate.utils.distributed import World, process_group, world_from_environment
torch.set_num_threads(1)
world, encoder, tokens = world_from_environment(), make_encoder("mean"), make_tokens([5, 9, 3, 7])
def texts(world):
    return EncodedTexts(encoder, packed_encoder(encoder, "mean"), tokens, CPU, "fp32", 20, 20, None, world)
with process_group(world, CPU):
    for rows in ([2], [3, 0], [1, 3, 0], [0, 1, 2, 3]):
        shared, alone = (texts(each).eval_pooled(np.array(rows)) for each in (world, World()))
        torch.testing.assert_close(shared, alone)
"""


def test_several_processes_encode_what_one_does_even_fewer_texts_than_they_are(tmp_path):
    """The last part of an encoding may be one text."""
    run_ranks(["-c", SHARED], tmp_path, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support import interrupted_encoding as test
from biencoder_ablate.encoder import texts
from biencoder_ablate.encoder import features as encoding
from biencoder_ablate.encoder.pretrained import ModelSource
texts.EVAL_TOKEN_BUDGET["cpu"], encoding.GROUPS_PER_PART = 100, 5
save = encoding.save_features
def save_then_die(path, features):
    save(path, features)
    if path.name == "00001.npy":
        os.kill(os.getpid(), signal.SIGKILL)
encoding.save_features = save_then_die
test.encode(ModelSource("tiny", Path(sys.argv[1]), "tiny"), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_it_survives_kill_9(source, tmp_path):
    cache = tmp_path / "cache"
    ended = run_python(["-c", KILLED, source.directory, cache, Path(__file__).parents[1]], tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    parts = list((cache / "features").glob("*.parts/*.npy"))
    assert len(parts) == 2
    assert torch.equal(encode(source, cache), encode(source, tmp_path / "whole"))


def test_it_says_how_long_it_will_take(source, tmp_path, monkeypatch, capsys):
    """By a clock of its own: a batch takes ten seconds, whatever is in it."""
    ticks = iter(np.arange(10_000.0) * 10)
    monkeypatch.setattr(encoding.time, "perf_counter", lambda: next(ticks))
    encode(source, tmp_path / "cache", RunLog(None))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "will take" in line)
    # Two texts of 48 tokens fill a batch of 100. After the first is begun to be counted, and after another it is said.
    rows = load_tokenizer(source.directory, 512)(list(TEXTS))["input_ids"]
    tokens = np.sort([len(row) for row in rows])[::-1].clip(max=48)
    seconds = 10 * tokens[4:].sum() / tokens[2:4].sum()
    assert line == f"the other {len(TEXTS) - 4} texts will take about {seconds / 60:.0f} min, as the first did"


def test_a_short_encoding_says_nothing_and_keeps_no_parts(tiny, tmp_path, capsys, monkeypatch):
    written = []
    save = encoding.save_features
    monkeypatch.setattr(encoding, "save_features", lambda path, h: (written.append(path.suffixes), save(path, h)))
    encode(tiny, tmp_path / "cache", RunLog(None))
    assert written == [[".npy"]] and "will take" not in capsys.readouterr().out
