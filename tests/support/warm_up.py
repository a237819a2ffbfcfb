"""What the server of forked.py does before it forks: imports, and what the libraries work out once a process."""

import transformers.models.auto
import transformers.models.bert.modeling_bert
import transformers.tokenization_utils_tokenizers  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import biencoder_ablate.cli.sweep
import biencoder_ablate.training.experiment  # noqa: F401
from biencoder_ablate.config.compose import compose_command, parse_arguments

get_checkpoint_conversion_mapping("bert")
with compose_command(parse_arguments(["model=tiny"])):
    pass
