"""A GPU without free memory, on a machine without a GPU: what PyTorch raises there."""

from __future__ import annotations

import pytest
import torch

from kd_train.training.gpu_memory import room_on_gpu
from kd_train.training.trainer import Trainer
from kdx.errors import TrainingError

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")


def test_a_training_without_room_names_what_helps(dataset, tmp_path, cli, monkeypatch):
    def fit(self: Trainer) -> None:
        raise FULL

    monkeypatch.setattr(Trainer, "fit", fit)
    options = (
        "--method",
        "stpm",
        "--backbone",
        "test_resnet",
        "--weights",
        "random",
        "--image-size",
        64,
        "--batch-size",
        4,
    )
    said = " ".join(cli("train", dataset, "-o", tmp_path / "run", *options, code=2).stderr.split())
    assert "CUDA out of memory. Tried to allocate 2.00 GiB." in said
    assert "smaller --batch-size than 4" in said
    assert "nvidia-smi" in said
    assert "--device cpu" in said
    assert "bug" not in said


@pytest.mark.parametrize("text", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"])
def test_what_else_finds_no_room_says_the_same(text):
    with pytest.raises(TrainingError, match="too little free memory") as caught, room_on_gpu(None):
        raise RuntimeError(f"{text}\nmore")
    assert "batch_size" not in caught.value.fix


def test_other_errors_stay():
    with pytest.raises(RuntimeError, match="shapes"), room_on_gpu(4):
        raise RuntimeError("shapes do not fit")
