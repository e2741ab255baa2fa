"""The trained pair of a run folder, and the fused detector of that pair."""

from __future__ import annotations

import torch
from msgspec import UNSET

from kd_export.graph import FusedDetector
from kd_train.methods import find_method
from kd_train.models.pair import Pair
from kd_train.models.quantized_pair import QuantizedPair
from kd_train.training.checkpoints import Checkpoint, Tensors
from kd_train.training.distilled_teacher import COMPACT_TEACHER
from kd_train.training.run_config import RunConfig
from kd_train.training.run_folder import Run
from kdx.errors import CheckpointError, OptionError
from kdx.imaging.images import InputSpec


def load_pair(run: Run, which: str | None = None) -> tuple[Pair, Checkpoint]:
    """Return a run's trained pair in eval mode and the record of its checkpoint.

    Args:
        run: The run.
        which: ``last`` or ``best``; None for the checkpoint that the recipe names.

    Raises:
        OptionError: There is no such checkpoint.
        CheckpointError: The checkpoint cannot be read or does not fit the pair.
    """
    config = run.config
    if which not in {None, "last", "best"}:
        raise OptionError("invalid `checkpoint`", expected="last or best", received=str(which))
    if config.method == COMPACT_TEACHER:
        raise CheckpointError(
            f"'{run.path}' is the training of a compact teacher, and holds no detector",
            fix=f"name the run folder around it, '{run.path.parent}'",
        )
    checkpoint = run.checkpoint(which or config.recipe.checkpoint)
    method = find_method(config.method)
    with torch.random.fork_rng(devices=[]):
        pair, _ = method.build(config.recipe.pair_options(method, None))
    if pair.spec != config.pair_spec:
        raise CheckpointError(
            f"'{run.path}' was trained as another pair than its recipe builds now",
            expected=config.pair_spec.describe(),
            received=pair.spec.describe(),
            fix="install the versions of kdx and timm that trained it, see 'versions' in run.json",
        )
    if config.quantized is not UNSET:
        pair = QuantizedPair(fuse(config, pair), config.quantized.plan)
    try:
        pair.load_state_dict(run.tensors(checkpoint))
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint of '{run.path}' does not fit its pair: {str(error).splitlines()[-1].strip()}",
            fix="install the version of timm that trained it, see 'versions' in run.json",
        ) from error
    return pair.eval(), checkpoint


def fuse(config: RunConfig, pair: Pair, input_spec: InputSpec | None = None) -> FusedDetector:
    """Return the fused detector of a run's pair, for the run's input or another camera's.

    That of a run with INT8 networks computes what its INT8 graph computes.
    """
    if isinstance(pair, QuantizedPair):
        return pair.detector(input_spec or config.input).quantized(pair.plan)
    recipe = config.recipe
    return FusedDetector(
        pair,
        config.pair_spec,
        input_spec or config.input,
        recipe.size,
        config.mean,
        config.std,
        recipe.resize_to,
        () if config.border_weights is UNSET else config.border_weights,
    )


def teacher_tensors(pair: Pair) -> Tensors:
    """Return a pair's teacher's tensors, by the names that they have in a run."""
    return {
        name: value.detach().cpu().contiguous()
        for name, value in pair.state_dict().items()
        if name.startswith("teacher.")
    }
