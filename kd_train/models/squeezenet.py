"""SqueezeNet, which timm does not have: torchvision's, with the interface of timm's models."""

from __future__ import annotations

from typing import Any

from kd_train.models.torch_vision import import_timm

SQUEEZENETS = ("squeezenet1_0", "squeezenet1_1")
# torchvision's normalisation, the statistics of ImageNet.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The last Fire module of each size.
_LEVELS = {
    "squeezenet1_0": ((2, "features.1", 96), (4, "features.5", 256), (8, "features.10", 512), (16, "features.12", 512)),
    "squeezenet1_1": ((2, "features.1", 64), (4, "features.4", 128), (8, "features.7", 256), (16, "features.12", 512)),
}


def create_squeezenet(name: str, *, pretrained: bool) -> Any:
    """Return a SqueezeNet with those attributes of timm's models that kdx uses."""
    import_timm()  # makes torchvision importable if its compiled part does not fit torch
    from torchvision import models

    model: Any = models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    # Every other backbone pads, so that sizes halve. Without padding, mirrored and inverted
    # students would have features of another size by a pixel.
    first = model.features[0]
    first.padding = tuple(side // 2 for side in first.kernel_size)
    model.feature_info = [
        {"reduction": stride, "module": module, "num_chs": channels} for stride, module, channels in _LEVELS[name]
    ]
    model.pretrained_cfg = {
        "mean": _MEAN,
        "std": _STD,
        "classifier": "classifier.1",
        "url": f"torchvision {name} IMAGENET1K_V1",
    }
    model.forward_features = model.features.forward
    return model
