"""Backbones for others to use: safetensors for timm, a pickle of arrays for detectron2, and a model card."""

from solo_bam.runs.checkpoints.export.card import Card, model_card
from solo_bam.runs.checkpoints.export.detectron2 import detectron2_file, detectron2_weights
from solo_bam.runs.checkpoints.export.weights import safetensors_file

__all__ = ["Card", "detectron2_file", "detectron2_weights", "model_card", "safetensors_file"]
