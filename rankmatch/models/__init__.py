"""DeepLabV3+ on its backbones, and the loading of published weights."""

from rankmatch.models.deeplabv3plus import DeepLabV3Plus, build_model

__all__ = ["DeepLabV3Plus", "build_model"]
