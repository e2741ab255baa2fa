"""Options of a training that takes seconds."""

from __future__ import annotations

from kd_train.training.options import TrainOptions

TINY = TrainOptions(
    backbone="test_resnet",
    weights="random",
    epochs=1,
    image_size=64,
    batch_size=4,
    learning_rate=0.05,
    validation_fraction=0.5,
    workers=0,
    device="cpu",
)
