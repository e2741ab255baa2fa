"""A finished run is extended by a new cycle of its schedule, from its last weights.

The learning rate begins again, and so does the optimiser, so the result is not that of one long
run. Epochs keep counting, so that no epoch draws the images' order or damage of an earlier one.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from kd_train.training.options import TrainOptions
from kd_train.training.run_config import NEWEST_SCHEMA, Cycle, RunConfig, current_versions
from kd_train.training.run_folder import Run
from kdx.errors import CheckpointError
from kdx.storage.files import write_atomic
from kdx.storage.json_records import RUN_INDEX, encode_record, now
from kdx.text import number_of


def as_extended(run: Run, options: TrainOptions) -> RunConfig:
    """Return the configuration of a run that is resumed, extended where that is asked for.

    Args:
        run: The run, which is not changed.
        options: The options; a finished run is extended by more ``epochs`` than it has. A cycle
            without a complete epoch is taken back by other ``epochs`` than were planned.

    Raises:
        CheckpointError: Fewer epochs are asked for than the finished run has.
    """
    config = run.config
    if options.epochs in {None, config.recipe.epochs} or not (run.path / "last.json").exists():
        return config
    config = _without_new_cycle(run)
    done = config.recipe.epochs
    if run.checkpoint("last").epoch < done:
        return run.config
    if options.epochs == done:
        return config
    if options.epochs < done:
        raise CheckpointError(
            f"'{run.path}' has {number_of(done, '[epoch|epochs]')} already",
            expected=f"more than {done}, to extend it by a new cycle",
            received=f"`epochs={options.epochs}`",
            fix="`epochs` counts all epochs of a run: give a larger number, or train another run",
        )
    return _with_cycle(run, config, options.epochs)


def extend(run: Run, config: RunConfig) -> Run:
    """Write the configuration of a run where it is another one now, and return the run."""
    if config == run.config:
        return run
    write_atomic(run.path / RUN_INDEX, encode_record(config))
    return Run(run.path)


def describe_cycles(config: RunConfig) -> list[str]:
    """Return a line that says which cycles a run was trained in; none for a single one."""
    if config.cycles is UNSET:
        return []
    numbers = " + ".join(str(cycle.epochs) for cycle in config.cycles)
    return [f"extended: {numbers} epochs, each cycle with a learning rate of its own; not the result of one long run"]


def _without_new_cycle(run: Run) -> RunConfig:
    """Return the configuration without a cycle of which no epoch is complete."""
    config, last = run.config, run.checkpoint("last")
    if config.cycles is UNSET or last.epoch > config.cycle_start:
        return config
    return msgspec.structs.replace(
        config,
        recipe=msgspec.structs.replace(config.recipe, epochs=last.epoch),
        cycles=config.cycles[:-1] if len(config.cycles) > 2 else UNSET,
    )


def _with_cycle(run: Run, config: RunConfig, epochs: int) -> RunConfig:
    last = run.checkpoint("last")
    first = Cycle(after=0, epochs=last.epoch, checkpoint_sha256="", versions=config.versions, created=config.created)
    new = Cycle(
        after=last.epoch,
        epochs=epochs - last.epoch,
        checkpoint_sha256=last.sha256,
        versions=dict(current_versions()),
        created=now(),
    )
    return msgspec.structs.replace(
        config,
        schema=NEWEST_SCHEMA,
        recipe=msgspec.structs.replace(config.recipe, epochs=epochs),
        cycles=[*([first] if config.cycles is UNSET else config.cycles), new],
        border_weights=UNSET,  # measured again when the new cycle ends
    )
