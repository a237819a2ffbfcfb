"""`biencoder-ablate export RUN_DIR OUT`: a trained model as a directory that sentence-transformers loads.

Its stage 1 is a plain SentenceTransformer, by that library's own modules. The head has no place among them: it lies in
OUT/run, a run directory without the encoder, for `biencoder_ablate.load` and, through cross_encoder.py, as a re-ranker.
Files are written as that library documents them, so that no version of it is needed here.

H pooled width, R retrieval width.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.config.kept import escape, read_settings
from biencoder_ablate.config.schema import MEASURING_KEYS, looks_like_path
from biencoder_ablate.data.corpus import text_key
from biencoder_ablate.utils.command import run_command
from biencoder_ablate.utils.console import format_error, format_number, show
from biencoder_ablate.utils.files import (
    copy_regular,
    expand_user,
    load_json,
    load_yaml,
    whole_directory,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.api import TrainedRun

LICENCES = {
    "sample": "the debates that ship with biencoder-ablate, written by an AI model; CC0 1.0",
    "arguana": "ArguAna Counterargs (Wachsmuth, Syed and Stein, ACL 2018; doi 10.5281/zenodo.3973258); CC BY 4.0",
}
_EXAMPLE = ("Zoos protect endangered species.", "Animals in zoos die young.", "Buses should be free.")
"""A point, its counter and another text, for a card whose corpus is of debates or is not there."""
_MOST_SHOWN = 80
"""Characters of a user's own text in the card."""
_ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
"""What an encoder's files are called. Whatever else lies beside them stays there."""
_CANDIDATES = {
    "all": "all other texts of the split are candidates",
    "answers": "the answers of the split, or the documents, are candidates, and what asks is none",
}
"""What was ranked, by evaluation.candidates."""
_MODULES = "sentence_transformers.models"
"""Where every version of the library finds its modules."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the directory and say what is in it; returns the exit code (1 with one message for what is wrong)."""
    return run_command(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    out = expand_user(arguments.out)
    difference = export(arguments.run_dir, out, arguments.overrides)
    if difference is None:
        comparison = "not compared with sentence-transformers, which is not installed here"
    else:
        comparison = f"its embeddings by sentence-transformers differ from the run's by {difference:.1e} at most"
    show(f"{out}: {comparison}\nread {out / 'README.md'} before you give it away: its licence is yours to choose")
    if arguments.push:
        show(f"pushed, as a private repository: {push(out, arguments.push)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate export",
        description="Write a trained model as a directory that SentenceTransformer(OUT) loads, the head beside it, and "
        "a model card with the run's figures.",
        epilog="Example: biencoder-ablate export latest my_model",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a finished run: logs/runs/NAME, its name, or latest")
    parser.add_argument("out", metavar="OUT", help="the directory to write; an earlier export there is replaced")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help=f"any of {', '.join(MEASURING_KEYS)}"
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="put it on the Hugging Face hub, private at first")
    return parser


def export(run_dir: str | Path, out: Path, overrides: Sequence[str] = ()) -> float | None:
    """Write a run's model to `out`, which appears whole or not at all.

    Returns by how much embeddings of the sample debates differ at most between sentence-transformers and the run; None
    where that library is not installed. Raises ValueErrors, among them for an `out` that holds something else.
    """
    from biencoder_ablate.api import open_run

    if out.exists() and not (out / "run" / "result.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: holds something else than an export; must be new, empty, or an earlier export")
    run = open_run(run_dir, overrides)
    if run.warning:
        show(f"note: {run.warning}", sys.stderr)
    with whole_directory(out) as partial:
        _write_modules(run, partial)
        _write_run(run, partial)
        difference = _difference(run, partial)
        try:
            card = model_card(run, difference)
        except KeyError as error:
            raise ValueError(f"{run.path / 'result.json'}: damaged, has no {error.args[0]}") from error
        write_text(partial / "README.md", card)
    return difference


def _write_modules(run: TrainedRun, out: Path) -> None:
    """The encoder's files as they are, and what sentence-transformers wants to know of pooling, linear1 and length."""
    from torch import nn

    model, spec = run.biencoder().cpu(), run.contract
    architecture = spec.architecture
    separate = architecture.towers == "separate"
    encoder = "transformer" if separate else ""
    (out / encoder).mkdir(exist_ok=True)
    source = run.source().directory
    for file in sorted(source.iterdir()):
        if file.name in _ENCODER_FILES:
            copy_regular(_hub_blob(file) if not spec.copied else file, out / encoder / file.name)
    length = {"max_seq_length": spec.max_tokens, "do_lower_case": False}
    write_json(out / encoder / "sentence_bert_config.json", length)

    # The pooler is a dense layer with tanh over the cls token.
    mean = spec.pooling == "mean"
    pooling = {"pooling_mode_mean_tokens": mean, "pooling_mode_cls_token": not mean}
    (out / "pooling").mkdir()
    write_json(out / "pooling" / "config.json", {"word_embedding_dimension": architecture.pooled_dim} | pooling)
    kinds = {encoder: "Transformer", "pooling": "Pooling"}
    if spec.pooling == "pooler":
        pooler = run.encoder().module.pooler.dense
        _write_dense(out / "pooler", pooler.weight, pooler.bias, "torch.nn.modules.activation.Tanh")
        kinds["pooler"] = "Dense"

    # linear1, one for both routes or one for each; none where r is h.
    routes = {"query": [*kinds], "document": [*kinds]}
    projections = {"query": model.linear1, "document": model.linear1_candidate or model.linear1}
    for route, projection in projections.items():
        if isinstance(projection, nn.Linear):
            name, weight = f"{route}_linear1" if separate else "linear1", projection.weight.detach()
            if architecture.projection_init == "identity":
                weight = weight + weight.new_zeros(weight.shape).fill_diagonal_(1)  # h + linear1(h) as one matrix
            _write_dense(out / name, weight, projection.bias, "torch.nn.modules.linear.Identity")
            kinds[name] = "Dense"
            routes[route].append(name)

    types = {name: f"{_MODULES}.{kind}" for name, kind in kinds.items()}
    modules = [(name, types[name]) for name in routes["query"]]
    if separate:
        settings = {"default_route": "document", "allow_empty_key": True}
        write_json(out / "router_config.json", {"types": types, "structure": routes, "parameters": settings})
        modules = [("", f"{_MODULES}.Router")]
    if architecture.similarity == "cosine":
        (out / "normalize").mkdir()
        modules.append(("normalize", f"{_MODULES}.Normalize"))
    write_json(out / "modules.json", _numbered(modules))
    prompts = {"query": spec.point_prompt or "", "document": spec.candidate_prompt or ""}
    settings = {"similarity_fn_name": architecture.similarity, "prompts": prompts if any(prompts.values()) else {}}
    write_json(out / "config_sentence_transformers.json", settings)


def _hub_blob(file: Path) -> Path:
    """Where the content of a downloaded file lies: the hub's cache has links, snapshots/COMMIT/NAME → blobs/HASH.

    Any other link comes back as it is.
    """
    if not file.is_symlink() or file.parent.parent.name != "snapshots":
        return file
    blob = file.resolve()
    return blob if blob.parent == (file.parent.parent.parent / "blobs").resolve() else file


def _numbered(modules: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paths and classes as modules.json has them."""
    entries = []
    for number, (path, kind) in enumerate(modules):
        entries.append({"idx": number, "name": str(number), "path": path, "type": kind})
    return entries


def _write_dense(path: Path, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> None:
    from safetensors.torch import save_file

    path.mkdir(exist_ok=True)
    sizes = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": True}
    write_json(path / "config.json", sizes | {"activation_function": activation})
    tensors = {"linear.weight": weight.detach().contiguous(), "linear.bias": bias.detach().contiguous()}
    save_file(tensors, path / "model.safetensors")


def _write_run(run: TrainedRun, out: Path) -> None:
    """OUT/run: the run's settings, metrics, projections and head; the encoder is the one above."""
    from omegaconf import OmegaConf

    model = out / "run" / "model"
    for directory in (model, out / "run" / ".hydra"):
        directory.mkdir(parents=True)
    for name in ("result.json", "manifest.json", "model/biencoder.safetensors"):
        copy_regular(run.path / name, out / "run" / name)

    # Nothing of this machine's directories goes to others.
    config = OmegaConf.create(escape(read_settings(run.path / ".hydra" / "config.yaml")))
    for key in ("data.path", "model.name_or_path", "model.finetuned"):
        OmegaConf.update(config, key, escape(_public_name(OmegaConf.select(config, key))))
    OmegaConf.update(config, "logs_dir", "logs")
    OmegaConf.update(config, "cache_dir", None)
    OmegaConf.save(config, out / "run" / ".hydra" / "config.yaml")

    encoder = "../../transformer" if (out / "transformer").is_dir() else "../.."
    name = _public_name(run.contract.encoder_name)
    spec = replace(run.contract, encoder_name=name, copied=True, encoder_directory=encoder)
    write_json(model / "biencoder.json", asdict(spec))
    write_json(out / "run" / "modules.json", _numbered([("", "biencoder_ablate.cross_encoder.PairScore")]))
    # The score itself: its sigmoid would be 1.0 for many in float32.
    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    write_json(out / "run" / "config_sentence_transformers.json", settings)


def _public_name(name: Any) -> Any:
    """A name or path as others may read it: of a path on this machine its last part."""
    return Path(name).name if name and looks_like_path(name) else name


def _difference(run: TrainedRun, out: Path) -> float | None:
    """The largest difference of an element of r, over points and counters of the sample debates."""
    import importlib.util

    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer

    from biencoder_ablate.config.schema import DataConfig
    from biencoder_ablate.data.readers import read_sample
    from biencoder_ablate.utils.console import quiet_transformers

    pairs = read_sample(DataConfig()).test
    with quiet_transformers():
        theirs = SentenceTransformer(str(out), device=str(run.settings.device), local_files_only=True)
    ours = run.load_model()
    texts = [[pair.point for pair in pairs], [pair.counter for pair in pairs]]
    queries = theirs.encode_query(texts[0]) - ours.encode_points(texts[0])
    documents = theirs.encode_document(texts[1]) - ours.encode_candidates(texts[1])
    return float(max(abs(queries).max(), abs(documents).max()))


def model_card(run: TrainedRun, difference: float | None) -> str:
    """README.md, from model_card.md: how it is used, its metrics beside the clean ones, data, licence, command."""
    spec, config, result = run.contract, run.trained, run.result
    manifest = load_json(run.path / "manifest.json", libraries=dict, biencoder_ablate=str, precision=str, device=str)
    manifest.setdefault("git_commit", None)
    encoder, rerank, select = _public_name(spec.encoder_name), config.evaluation.rerank, config.evaluation.select
    leaks = result["test"]["num_points_clean"] < result["test"]["num_points"]

    trained = "trained with the rest"
    if config.training.freeze_encoder:
        trained = "fine-tuned by an earlier run, then frozen" if spec.copied else "frozen"
    if difference is None:
        equality = "It was not compared with the run's own embeddings, for lack of sentence-transformers."
    else:
        equality = f"Over the sample debates its embeddings differ from the run's own by {difference:.1e} at most."
    data = config.data
    has_counters = data.name in LICENCES
    if has_counters:
        task, tag = "the best counterargument to an argument", "counterargument-retrieval"
    else:
        task, tag = "the text that answers another", "answer-retrieval"
    example = _EXAMPLE if has_counters else _own_example(run)
    point, *answers = (json.dumps(text, ensure_ascii=False) for text in example)
    uses_of_head = {"none": "is not used", "all": "scores all candidates"}

    command = ["python", "-m", "biencoder_ablate"]
    overrides_file = run.path / ".hydra" / "overrides.yaml"
    for override in load_yaml(overrides_file, list) if overrides_file.is_file() else []:
        key, sign, value = str(override).partition("=")
        if key not in ("logs_dir", "cache_dir"):
            command.append(f"{key}{sign}{_public_name(value)}")

    columns, rows = _card_table(result)
    template = (Path(__file__).parent / "model_card.md").read_text("utf-8")
    return template.format(
        base_model=f"base_model: {encoder}\n" if "/" in encoder else "",
        run=run,
        config=config,
        result=result,
        manifest=manifest,
        contract=spec,
        encoder=encoder,
        trained=trained,
        similarity={"cosine": "cosine", "euclidean": "Euclidean distance"}[spec.architecture.similarity],
        equality=equality,
        head=uses_of_head.get(str(rerank), f"re-ranks the nearest {rerank}"),
        columns=columns,
        rows=rows,
        select="the last" if select == "last" else f"selected by val `{select}`",
        leakage=" The others were seen in training or are asked twice: trust the clean figures." if leaks else "",
        licence=LICENCES.get(data.name, "its licence is not known to this program"),
        data_name=_public_name(str(data.path)) if data.path and not has_counters else data.name,
        task=task,
        tag=tag,
        point=point,
        answers=", ".join(answers),
        candidates=_CANDIDATES[str(config.evaluation.candidates)],
        command=shlex.join(command),
        fingerprint=str(run.trained_on)[:16],
        libraries=", ".join(f"{library} {version}" for library, version in manifest["libraries"].items()),
    )


def _own_example(run: TrainedRun) -> Sequence[str]:
    """The first pair of the run's own test split and another answer, cut short; the general example where the corpus
    has gone or is another one now."""
    from biencoder_ablate.data.readers import load_corpus

    try:
        corpus = load_corpus(run.config.data)
    except (ValueError, OSError):
        return _EXAMPLE
    right = [pair for pair in corpus.test if pair.grade > 0]
    if corpus.fingerprint != run.trained_on or not right:
        return _EXAMPLE
    first = right[0]
    others = (pair.counter for pair in corpus.test if text_key(pair.counter) != text_key(first.counter))
    texts = [first.point, first.counter, *itertools.islice(others, 1)]
    return [textwrap.shorten(text, _MOST_SHOWN, placeholder="…") for text in texts]


def _card_table(result: Mapping[str, Any]) -> tuple[str, str]:
    """The heading and the rows of the card's table: val and test, official and clean, beside the baselines."""
    from biencoder_ablate.evaluation.baselines import TITLES

    baselines = {name: metrics for name, metrics in result.get("baselines", {}).items() if name in TITLES}
    titles = [TITLES[name] for name in baselines]
    columns = ["points", "number", *titles, "embeddings alone", "with the head", "MRR", "nDCG@10"]
    heading = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"

    rows = []
    for split in ("val", "test"):
        if split not in result:
            continue
        metrics = result[split]
        for kind, suffix in (("official", ""), ("clean", "_clean")):
            values = [baseline[split].get(f"top1{suffix}") for baseline in baselines.values()]
            values += [metrics[f"{key}{suffix}"] for key in ("top1_stage1", "top1", "mrr", "ndcg@10")]
            numbers = [format_number(value) or "–" for value in values]
            cells = [f"{split} {kind}", str(metrics[f"num_points{suffix}"]), *numbers]
            rows.append(f"| {' | '.join(cells)} |")
    return heading, "\n".join(rows)


def push(directory: Path, repo: str, endpoint: str | None = None) -> str:
    """Put an export on the hub, in a private repository if it is new; returns its address. Raises ValueError."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    try:
        created = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=directory, commit_message="Model exported by biencoder-ablate")
    except Exception as error:  # the library's own, the network's, a name that is none
        raise ValueError(
            f"--push {repo}: {format_error(error, brief=True)}; needs OWNER/NAME, and to be logged in (hf auth login)"
        ) from error
    return str(created)


if __name__ == "__main__":
    sys.exit(main())
