"""Lossless compression of images with a model: bits back with asymmetric numeral systems."""

from flowvae.compression.blocks import Coding

__all__ = ["Coding"]
