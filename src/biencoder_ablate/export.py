"""`python -m biencoder_ablate.export RUN_DIR OUT`: a trained model as a directory that sentence-transformers loads.

Its stage 1 is a plain SentenceTransformer, by that library's own modules. The head has no place among them: it lies in
OUT/run, a run directory without the encoder, for `biencoder_ablate.load` and, through cross_encoder.py, as a re-ranker.
Files are written as that library documents them, so that no version of it is needed here.

H pooled width, R retrieval width.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.command import ALLOWED, answer
from biencoder_ablate.text import figure

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.trained_run import TrainedRun

LICENCES = {
    "sample": "the debates that ship with biencoder-ablate, written by an AI model; CC0 1.0",
    "arguana": "ArguAna Counterargs (Wachsmuth, Syed and Stein, ACL 2018; doi 10.5281/zenodo.3973258); CC BY 4.0",
}
_ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer", "special_tokens", "added_tokens", "vocab", "merges")
"""How the names of an encoder's files begin."""
_MODULES = "sentence_transformers.models"
"""Where every version of the library finds its modules."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the directory and say what is in it; returns the exit code (1 with one message for what is wrong)."""
    return answer(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out).expanduser()
    difference = export(arguments.run_dir, out, arguments.overrides)
    said = (
        "not compared with sentence-transformers, which is not installed here"
        if difference is None
        else f"its embeddings by sentence-transformers differ from the run's by {difference:.1e} at most"
    )
    print(f"{out}: {said}\nread {out / 'README.md'} before you give it away: its licence is yours to choose")
    if arguments.push:
        print(f"pushed, as a private repository: {push(out, arguments.push)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate export",
        description="Write a trained model as a directory that SentenceTransformer(OUT) loads, the head beside it, and "
        "a model card with the run's figures.",
        epilog="Example: biencoder-ablate export latest my_model",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a finished run: logs/runs/NAME, its name, or latest")
    parser.add_argument("out", metavar="OUT", help="the directory to write; an earlier export there is replaced")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=f"any of {', '.join(ALLOWED)}")
    parser.add_argument("--push", metavar="OWNER/NAME", help="put it on the Hugging Face hub, private at first")
    return parser


def export(run_dir: str | Path, out: Path, overrides: Sequence[str] = ()) -> float | None:
    """Write a run's model to `out`, which appears whole or not at all.

    Returns by how much embeddings of the sample debates differ at most between sentence-transformers and the run; None
    where that library is not installed. Raises ValueErrors, among them for an `out` that holds something else.
    """
    from biencoder_ablate.files import whole_directory, write_text
    from biencoder_ablate.trained_run import open_run

    if out.exists() and not (out / "run" / "result.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: holds something else than an export; must be new, empty, or an earlier export")
    run = open_run(run_dir, overrides)
    with whole_directory(out) as partial:
        _write_modules(run, partial)
        _write_run(run, partial)
        difference = _difference(run, partial)
        write_text(partial / "README.md", model_card(run, difference))
    return difference


def _write_modules(run: TrainedRun, out: Path) -> None:
    """The encoder's files as they are, and what sentence-transformers wants to know of pooling, linear1 and length."""
    from torch import nn

    model, contract = run.biencoder().cpu(), run.contract
    width, separate = contract.architecture.pooled_dim, contract.architecture.towers == "separate"
    source, encoder = run.source().directory, out / ("transformer" if separate else "")
    encoder.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.name.startswith(_ENCODER_FILES):
            shutil.copyfile(file, encoder / file.name)
    _write_json(encoder / "sentence_bert_config.json", {"max_seq_length": contract.max_tokens, "do_lower_case": False})
    mode = "mean" if contract.pooling == "mean" else "cls"
    names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens"}
    pooling = {f"pooling_mode_{name}": key == mode for key, name in names.items()}
    _write_json(out / "pooling" / "config.json", {"word_embedding_dimension": width} | pooling)
    kinds = {"transformer" if separate else "": "Transformer", "pooling": "Pooling"}
    if contract.pooling == "pooler":
        pooler = run.encoder().module.pooler.dense
        _write_dense(out / "pooler", pooler.weight, pooler.bias, "torch.nn.modules.activation.Tanh")
        kinds["pooler"] = "Dense"
    routes = {}
    for name, projection in (("query_linear1", model.linear1), ("document_linear1", model.linear1_candidate)):
        routes[name.partition("_")[0]] = [*kinds]
        if isinstance(projection, nn.Linear):
            own = name if separate else "linear1"
            weight = projection.weight.detach()
            if contract.architecture.projection_init == "identity":
                weight = weight + weight.new_zeros(weight.shape).fill_diagonal_(1)  # h + linear1(h) as one matrix
            _write_dense(out / own, weight, projection.bias, "torch.nn.modules.linear.Identity")
            routes[name.partition("_")[0]].append(own)
    types = kinds | {name: "Dense" for route in routes.values() for name in route if name not in kinds}
    modules = [(path, types[path]) for path in routes["query"]]
    if separate:
        shown = {name: f"{_MODULES}.{kind}" for name, kind in types.items()}
        settings = {"default_route": "document", "allow_empty_key": True}
        _write_json(out / "router_config.json", {"types": shown, "structure": routes, "parameters": settings})
        modules = [("", "Router")]
    cosine = contract.architecture.similarity == "cosine"
    if cosine:
        (out / "normalize").mkdir()
        modules.append(("normalize", "Normalize"))
    _write_json(
        out / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
    )
    _write_json(
        out / "config_sentence_transformers.json",
        {
            "similarity_fn_name": contract.architecture.similarity,
            "prompts": {"query": contract.point_prompt or "", "document": contract.candidate_prompt or ""}
            if contract.point_prompt or contract.candidate_prompt
            else {},
            "default_prompt_name": None,
        },
    )


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _write_dense(path: Path, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> None:
    from safetensors.torch import save_file

    shape = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": True}
    _write_json(path / "config.json", shape | {"activation_function": activation})
    tensors = {"linear.weight": weight, "linear.bias": bias}
    save_file({name: of.detach().contiguous() for name, of in tensors.items()}, path / "model.safetensors")


def _write_run(run: TrainedRun, out: Path) -> None:
    """OUT/run: the run's settings, figures, projections and head; the encoder is the one above. No path of the machine
    that trained it is told."""
    from omegaconf import OmegaConf

    model = out / "run" / "model"
    model.mkdir(parents=True)
    for name in ("result.json", "manifest.json"):
        shutil.copyfile(run.path / name, out / "run" / name)
    config = OmegaConf.load(run.path / ".hydra" / "config.yaml")
    for key in ("data.path", "model.name_or_path"):
        value = OmegaConf.select(config, key)
        if value is not None and not (key == "model.name_or_path" and _is_on_hub(value)):
            OmegaConf.update(config, key, Path(value).name)
    OmegaConf.update(config, "logs_dir", "logs")
    OmegaConf.update(config, "cache_dir", None)
    (out / "run" / ".hydra").mkdir()
    OmegaConf.save(config, out / "run" / ".hydra" / "config.yaml")
    shutil.copyfile(run.path / "model" / "biencoder.safetensors", model / "biencoder.safetensors")
    directory = "../../transformer" if (out / "transformer").is_dir() else "../.."
    name = run.contract.encoder_name
    contract = replace(
        run.contract,
        encoder_name=name if _is_on_hub(name) else Path(name).name,
        copied=True,
        encoder_directory=directory,
    )
    _write_json(model / "biencoder.json", asdict(contract))
    reranker = {"idx": 0, "name": "0", "path": "", "type": "biencoder_ablate.cross_encoder.PairScore"}
    _write_json(out / "run" / "modules.json", [reranker])
    # The score itself: its sigmoid would be 1.0 for many in float32.
    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    _write_json(out / "run" / "config_sentence_transformers.json", settings)


def _is_on_hub(name: str) -> bool:
    from biencoder_ablate.config import looks_like_path

    return not looks_like_path(name)


def _difference(run: TrainedRun, out: Path) -> float | None:
    """The largest difference of an element of r, over points and counters of the sample debates."""
    import importlib.util

    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer

    from biencoder_ablate.api import use
    from biencoder_ablate.config import DataConfig
    from biencoder_ablate.data.readers import read_sample
    from biencoder_ablate.model.encoder import quiet_transformers

    pairs = read_sample(DataConfig()).test
    with quiet_transformers():
        theirs = SentenceTransformer(str(out), device=str(run.reading.device), local_files_only=True)
    ours = use(run)
    texts = [[pair.point for pair in pairs], [pair.counter for pair in pairs]]
    queries = theirs.encode_query(texts[0]) - ours.encode_points(texts[0])
    documents = theirs.encode_document(texts[1]) - ours.encode_candidates(texts[1])
    return float(max(abs(queries).max(), abs(documents).max()))


def model_card(run: TrainedRun, difference: float | None) -> str:
    """README.md, from model_card.md: how it is used, its figures beside the clean ones, data, licence, command."""
    from biencoder_ablate.evaluation.baselines import TITLES
    from biencoder_ablate.files import read_json

    manifest, contract, config, result = read_json(run.path / "manifest.json"), run.contract, run.trained, run.result
    assert isinstance(manifest, dict)
    on_hub = _is_on_hub(contract.encoder_name) and "/" in contract.encoder_name
    encoder = contract.encoder_name if on_hub else Path(contract.encoder_name).name
    baselines = [name for name in TITLES if name in result.get("baselines", {})]
    columns = ["points", "number", *map(TITLES.get, baselines), "embeddings alone", "with the head", "MRR", "nDCG@10"]
    rows = []
    for split in ("val", "test"):
        for kind, suffix in (("official", ""), ("clean", "_clean")):
            figures = result[split]
            values = [result["baselines"][name][split].get(f"top1{suffix}") for name in baselines]
            values += [figures[f"{key}{suffix}"] for key in ("top1_stage1", "top1", "mrr", "ndcg@10")]
            cells = [
                f"{split} {kind}",
                str(figures[f"num_points{suffix}"]),
                *(figure(value) or "–" for value in values),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    num_points, num_clean = result["test"]["num_points"], result["test"]["num_points_clean"]
    data, rerank = config.data, config.evaluation.rerank
    return (
        (Path(__file__).parent / "model_card.md")
        .read_text("utf-8")
        .format(
            base_model=f"base_model: {encoder}\n" if on_hub else "",
            name=run.name,
            encoder=encoder,
            trained="trained with the rest" if contract.copied else "frozen",
            pooling=contract.pooling,
            max_tokens=contract.max_tokens,
            similarity={"cosine": "cosine", "euclidean": "Euclidean distance"}[contract.architecture.similarity],
            equality="It was not compared with the run's own embeddings, for lack of sentence-transformers."
            if difference is None
            else f"Over the sample debates its embeddings differ from the run's own by {difference:.1e} at most.",
            head={"none": "is not used", "all": "scores all candidates"}.get(
                str(rerank), f"re-ranks the nearest {rerank}"
            ),
            columns=f"| {' | '.join(map(str, columns))} |\n{'|---' * len(columns)}|",
            rows="\n".join(rows),
            seed=config.seed,
            epoch=result["best_epoch"],
            select="the last"
            if config.evaluation.select == "last"
            else f"selected by val `{config.evaluation.select}`",
            num_clean=num_clean,
            num_points=num_points,
            leakage=" The others were seen in training or are asked twice: trust the clean figures."
            if num_clean < num_points
            else "",
            data=data.name + (f" ({Path(data.path).name})" if data.path else ""),
            licence=LICENCES.get(data.name, "its licence is not known to this program"),
            fingerprint=str(run.trained_on)[:16],
            command=f"python -m biencoder_ablate {_command(run.path)}".rstrip(),
            version=manifest["biencoder_ablate"],
            commit=manifest["git_commit"],
            libraries=", ".join(f"{library} {version}" for library, version in manifest["libraries"].items()),
            precision=manifest["precision"],
            device=manifest["device"],
        )
    )


def _command(run: Path) -> str:
    """What was asked of the training command, paths without their directories."""
    import yaml

    try:
        asked = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text("utf-8")) or []
    except (OSError, yaml.YAMLError):
        return ""
    told = []
    for override in map(str, asked):
        key, _, value = override.partition("=")
        if key in ("logs_dir", "cache_dir"):
            continue
        told.append(
            f"{key}={Path(value).name}" if key == "data.path" or value.startswith(("/", "~", ".")) else override
        )
    return shlex.join(told)


def push(directory: Path, repo: str, endpoint: str | None = None) -> str:
    """Put an export on the hub, in a private repository if it is new; returns its address. Raises ValueError."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    try:
        created = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=directory, commit_message="Model exported by biencoder-ablate")
    except Exception as error:  # the library's own, the network's, a name that is none
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"--push {repo}: {reason[0][:300]}; needs OWNER/NAME, and to be logged in (hf auth login)"
        ) from error
    return str(created)


if __name__ == "__main__":
    sys.exit(main())
