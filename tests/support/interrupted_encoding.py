"""Encoding the sample's first texts, which tests interrupt."""

import torch
from support.helpers import load_sample

from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.encoder.features import features_of
from biencoder_ablate.encoder.texts import EncodeSettings
from biencoder_ablate.utils.console import RunLog

TEXTS = build_table(load_sample()).texts[:90]

SETTINGS = EncodeSettings("mean", 48, torch.device("cpu"))


def encode(source, cache, log=None):
    return features_of(source, SETTINGS, TEXTS, cache, log or RunLog(None, quiet=True))
