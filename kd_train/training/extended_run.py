"""A finished run is extended by a new cycle of its schedule, from its last weights.

The learning rate begins again, and so does the optimiser, so the result is not that of one long
run. Epochs keep counting, so that no epoch draws the images' order or damage of an earlier one.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from kd_train.training.options import TrainOptions
from kd_train.training.run_config import NEWEST_SCHEMA, TRAINING_PACKAGES, Cycle, RunConfig
from kd_train.training.run_folder import Run
from kdx import __version__
from kdx.errors import CheckpointError
from kdx.runtime.machine import package_versions
from kdx.storage.files import write_atomic
from kdx.storage.json_records import RUN_INDEX, encode_record, now
from kdx.text import number_of


def as_extended(run: Run, options: TrainOptions) -> RunConfig:
    """Return the configuration of a run that is resumed, extended where that is asked for.

    Args:
        run: The run, which is not changed.
        options: The options; a finished run is extended by more ``epochs`` than it has.

    Raises:
        CheckpointError: Fewer epochs are asked for than the finished run has.
    """
    config = run.config
    done = config.recipe.epochs
    if options.epochs is None or options.epochs == done or not _is_trained(run):
        return config
    if options.epochs < done:
        raise CheckpointError(
            f"'{run.path}' has {number_of(done, '[epoch|epochs]')} already",
            expected=f"more than {done}, to extend it by a new cycle",
            received=f"`epochs={options.epochs}`",
            fix="`epochs` counts all epochs of a run: give a larger number, or train another run",
        )
    return _with_cycle(run, options.epochs)


def extend(run: Run, config: RunConfig) -> Run:
    """Write the configuration of a run that is extended, and return the run."""
    if config.cycles == run.config.cycles:
        return run
    write_atomic(run.path / RUN_INDEX, encode_record(config))
    return Run(run.path)


def describe_cycles(config: RunConfig) -> list[str]:
    """Return a line that says which cycles a run was trained in; none for a single one."""
    if config.cycles is UNSET:
        return []
    numbers = " + ".join(str(cycle.epochs) for cycle in config.cycles)
    return [f"extended: {numbers} epochs, each cycle with a learning rate of its own; not the result of one long run"]


def _is_trained(run: Run) -> bool:
    """Whether all epochs are complete; border weights may be missing."""
    return (run.path / "last.json").exists() and run.checkpoint("last").epoch >= run.config.recipe.epochs


def _with_cycle(run: Run, epochs: int) -> RunConfig:
    config, last = run.config, run.checkpoint("last")
    first = Cycle(after=0, epochs=last.epoch, checkpoint_sha256="", versions=config.versions, created=config.created)
    new = Cycle(
        after=last.epoch,
        epochs=epochs - last.epoch,
        checkpoint_sha256=last.sha256,
        versions={"kdx": __version__, **package_versions(TRAINING_PACKAGES)},
        created=now(),
    )
    return msgspec.structs.replace(
        config,
        schema=NEWEST_SCHEMA,
        recipe=msgspec.structs.replace(config.recipe, epochs=epochs),
        cycles=[*([first] if config.cycles is UNSET else config.cycles), new],
        border_weights=UNSET,  # measured again when the new cycle ends
    )
