"""Checkpoints of training frameworks as a teacher's weights."""

from __future__ import annotations

import pytest
import torch

from kd_train.models.backbones import create_backbone
from kd_train.models.weights import load_weights
from kdx.errors import WeightsError


def loaded(state: object, path) -> dict[str, torch.Tensor]:
    torch.save(state, path)
    model = create_backbone("test_resnet")
    assert load_weights(model, "test_resnet", str(path)) == f"file {path.name}"
    return model.state_dict()


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal, but for the classifier, which is no part of a teacher."""
    assert [n for n, value in theirs.items() if not torch.equal(value, ours[n]) and not n.startswith("fc.")] == []


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "model.module.", "module._orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict"])
def test_what_frameworks_put_before_names_is_taken_off(prefix, key, tmp_path) -> None:
    theirs = create_backbone("test_resnet").state_dict()
    state = {f"{prefix}{name}": value for name, value in theirs.items()}
    ours = loaded({key: state, "epoch": 3} if key else state, tmp_path / "w.pth")
    assert_same(ours, theirs)


def test_a_loss_beside_the_network_is_left_out(tmp_path) -> None:
    theirs = create_backbone("test_resnet").state_dict()
    state = {"loss.weight": torch.ones(2), **{f"model.{name}": value for name, value in theirs.items()}}
    ours = loaded({"state_dict": state}, tmp_path / "w.pth")
    assert_same(ours, theirs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path) -> None:
    state = create_backbone("test_resnet").state_dict()
    state["fc.weight"][0] = value  # the classifier is no part of a teacher
    loaded(state, tmp_path / "w.pth")
    state["layer2.0.bn1.weight"][0] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="are not finite: 1 tensors") as caught:
        load_weights(create_backbone("test_resnet"), "test_resnet", str(tmp_path / "w.pth"))
    assert "'layer2.0.bn1.weight'" in caught.value.received


def test_names_that_stay_unknown_are_shown(tmp_path) -> None:
    theirs = create_backbone("test_resnet").state_dict()
    torch.save({f"encoder.{name}": value for name, value in theirs.items()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="do not fit this backbone") as caught:
        load_weights(create_backbone("test_resnet"), "test_resnet", str(tmp_path / "w.pth"))
    assert f"the file begins with 'encoder.{next(iter(theirs))}'" in caught.value.received
    assert "as timm does" in caught.value.fix
