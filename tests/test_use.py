"""A trained model in use: equal to the run's own rankings for every head, exported for sentence-transformers, and the
commands that take a run by its name."""

import json

import numpy as np
import pytest
from helpers import load_sample, train

import biencoder_ablate
from biencoder_ablate import export
from biencoder_ablate.compose import conf_directory
from biencoder_ablate.data.corpus import limit_debates

HEADS = sorted(path.stem for path in (conf_directory() / "head").glob("*.yaml"))
EVERY_DAY = [("mlp", "shared", "head"), ("layernorm_relu", "separate", "sum")]
QUICK = ("model=tiny", "training.freeze_encoder=true", "training.epochs=0", "data.limit=6", "model.head_init=random")
"""A random head over a random projection ranks as well as any for holding two ways of ranking together."""


def rankings(run):
    return [json.loads(line) for line in (run / "rankings.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("head", "towers", "score"),
    [
        pytest.param(head, *how, marks=() if (head, *how) in EVERY_DAY else pytest.mark.slow)
        for head in HEADS
        for how in (("shared", "head"), ("separate", "sum"))
    ],
)
def test_the_same_order_as_the_runs_own_rankings(head, towers, score, tmp_path):
    """Each test point asks the texts of its split but its own; the counter's rank and the first are those on record."""
    settings = (f"head={head}", f"model.towers={towers}", f"evaluation.score={score}", "model.projection_init=random")
    run = train(tmp_path, *QUICK, *settings)
    records = [record for record in rankings(run) if record["split"] == "test"]
    pairs = limit_debates(load_sample(), 6).test
    corpus = [pair.counter for pair in pairs] + [pair.point for pair in pairs]
    names = [f"{pair.id}#{kind}" for kind in ("counter", "point") for pair in pairs]
    model = biencoder_ablate.load(run)
    found = model.retrieve([pair.point for pair in pairs], corpus, k=len(corpus))
    assert [record["id"] for record in records] == [pair.id for pair in pairs]
    for row, record in enumerate(records):
        order = found.candidate[row]
        assert names[order[0]] == record["first"]
        assert order.tolist().index(row) + 1 == record["rank"]
        assert np.isfinite(found.score[row]).sum() == record["num_scored"]
        assert found.dead[row].sum() == record["num_dead"]
        scored = order[:10].tolist()
        scores = model.score(pairs[row].point, [corpus[candidate] for candidate in scored])
        np.testing.assert_allclose(found.score[row, :10], scores, atol=1e-5)
        r = model.encode_points(pairs[row].point), model.encode_candidates([corpus[place] for place in scored])
        np.testing.assert_allclose(found.distance[row, :10], np.linalg.norm(r[1] - r[0], axis=1), atol=1e-4)


# --- export ---


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By name, (run, what was exported of it): shared tower, Euclidean, pooler, encoder trained; two towers, cosine,
    frozen."""
    cwd, made = tmp_path_factory.mktemp("exported"), {}
    for name, settings in {
        "trained": ("model=tiny", "recipe=study", "training.epochs=1", "data.limit=6", "model.pooling=pooler"),
        "frozen": (*QUICK, "model.projection_init=identity"),
    }.items():
        run = train(cwd, *settings)
        export.export(run, cwd / name)
        made[name] = run, cwd / name
    return made


@pytest.mark.parametrize("which", ["trained", "frozen"])
def test_sentence_transformers_gives_the_same_embeddings(which, exported):
    from sentence_transformers import CrossEncoder, SentenceTransformer

    run, out = exported[which]
    ours, theirs = biencoder_ablate.load(run), SentenceTransformer(str(out), device="cpu")
    pairs = load_sample().val
    points, counters = [pair.point for pair in pairs], [pair.counter * 3 for pair in pairs]  # some are cut
    np.testing.assert_allclose(theirs.encode_query(points), ours.encode_points(points), atol=2e-6)
    np.testing.assert_allclose(theirs.encode_document(counters), ours.encode_candidates(counters), atol=2e-6)
    similarity = theirs.similarity(theirs.encode_query(points[:1]), theirs.encode_document(counters)).numpy()[0]
    order = ours.retrieve(points[0], counters, k=len(counters)).distance[0]
    if which == "frozen":
        np.testing.assert_allclose(np.sort(-similarity), np.sort(order**2) / 2 - 1, atol=1e-5)
    else:
        np.testing.assert_allclose(np.sort(-similarity), np.sort(order), atol=1e-4)
    reranker = CrossEncoder(str(out / "run"), trust_remote_code=True)
    scores = reranker.predict(list(zip(points, counters, strict=True)))
    np.testing.assert_allclose(scores, ours.score(points, counters), atol=1e-5)
    best = [one["corpus_id"] for one in reranker.rank(points[0], counters, top_k=3)]
    assert best == np.argsort(-ours.score(points[0], counters), kind="stable")[:3].tolist()


def test_what_was_exported_is_a_run_to_the_program_and_tells_no_path(exported, tmp_path):
    for run, out in exported.values():
        theirs, ours = biencoder_ablate.load(out), biencoder_ablate.load(run)
        assert theirs.name == ours.name == run.name
        np.testing.assert_array_equal(theirs.encode_points("Ban cars."), ours.encode_points("Ban cars."))
        text = "".join(path.read_text("utf-8") for path in out.rglob("*") if path.suffix in (".json", ".yaml", ".md"))
        assert str(run.parents[2]) not in text and "/home" not in text
