"""Structured Turbo-VBI compression (docs/theory-networks.md)."""

from isac_toolbox.nn.turbo_vbi.compressor import TurboVBICompressor
from isac_toolbox.nn.turbo_vbi.settings import CompressionSettings
from isac_toolbox.nn.turbo_vbi.trainer import EpochRecord

__all__ = ["CompressionSettings", "EpochRecord", "TurboVBICompressor"]
