"""``kdx triton``."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.output import err, out, print_json, shown, typed
from kdx.cli.shared_options import FORCE_OPTION, JSON_OPTION, REQUIRE_SIGNATURE_OPTION, one_of, require_effect
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kd_export.serving.repository import Served


def triton(
    bundle: Path = typer.Argument(help="Bundle to serve."),
    repository: Path = typer.Option(
        ..., "--out", "-o", help="Model repository to write into; other models in it stay as they are."
    ),
    backend: str = typer.Option("onnxruntime", help="Triton's backend: onnxruntime, openvino or tensorrt."),
    precision: str | None = typer.Option(
        None, help="Precision of the graph that is served. Default: fp32; with tensorrt that of the only engine."
    ),
    name: str | None = typer.Option(None, help="The model's name for clients. Default: the bundle's."),
    max_batch: int | None = typer.Option(
        None, min=1, help="Largest batch. Default: the largest that graph or engine take."
    ),
    max_queue_delay_us: int = typer.Option(
        0, min=0, help="How long a request may wait, in microseconds, for others to share a batch with."
    ),
    instances: int = typer.Option(1, min=1, help="How many run at once."),
    gpu: bool | None = typer.Option(None, "--gpu/--cpu", help="Where it runs. Default: tensorrt on a GPU, else CPU."),
    threads: int | None = typer.Option(
        None, min=1, max=1024, help="Threads of each CPU instance. Default: the backend's choice."
    ),
    engine: str | None = typer.Option(None, help="Which of engines/, with tensorrt, where several would do."),
    require_signature: list[Path] = REQUIRE_SIGNATURE_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Write a model repository for NVIDIA Triton Inference Server.

    Writes REPOSITORY/NAME with config.pbtxt, the graph (or the plan of an engine) and golden images
    with which the server warms up. The configuration is built as Triton's protobuf message, read
    back, and compared with the names, types and shapes of the graph. What decides is in the model's
    parameters: threshold, review threshold, frame limits. Clients get their verdicts with
    kdx.verdict_of_answer, which decides as the bundle does in a program of its own. Bundles with
    tiles, a region of interest or a level map are refused: Triton runs the graph alone.

    With openvino the precision is written into the model, for Triton cannot state it, and the
    golden images are judged with what the server will run; if it does not decide what was trained,
    nothing is written and the exit status is 1.
    """
    from kdx.bundle.open import open_bundle
    from kdx.bundle.signature import require_signed_engines

    one_of("--backend", backend, ("onnxruntime", "openvino", "tensorrt"))
    if backend != "tensorrt":
        require_effect({"--engine": engine is not None}, "--backend tensorrt")
    if gpu or (gpu is None and backend == "tensorrt"):
        require_effect({"--threads": threads is not None}, "--cpu")
    opened = open_bundle(bundle, require_signature=require_signature or None)
    if backend == "tensorrt":
        require_signed_engines(opened)
    with needs("serving", "kdx triton"):
        import onnx
        import tritonclient.grpc.model_config_pb2  # noqa: F401

        del onnx
    if backend == "openvino":
        with needs("openvino", "the backend openvino"):
            import openvino

            del openvino
    from kd_export.serving.repository import ServingRequest, write_repository

    request = ServingRequest(
        backend=backend,
        name=name,
        precision=precision,
        max_batch=max_batch,
        max_queue_delay_us=max_queue_delay_us,
        instances=instances,
        gpu=gpu,
        threads=threads,
        engine=engine,
    )
    _show(bundle, write_repository(opened, request, repository, force=force), json=json)


def _show(bundle: Path, served: Served, *, json: bool) -> None:
    model = served.model
    if json:
        print_json({"bundle": str(bundle), **served.record()})
        return
    batches = f"batches up to {model.max_batch}" if model.max_batch > 1 else "one image at a time"
    where = "GPU" if model.gpu else "CPU"
    out.print(f"[bold]{shown(served.folder)}[/]: {model.backend} on the {where}, {served.precision}, {batches}")
    out.print(f"  takes {model.input.describe()}; config.pbtxt fits Triton's protobuf and the graph")
    if "kdx.threshold" not in model.parameters:
        err.print(
            f"[yellow]not calibrated:[/] clients get no threshold. Calibrate with kdx calibrate {typed(bundle)} DATA"
        )
    if "kdx.doubt" in model.parameters:
        doubt = json_text.loads(model.parameters["kdx.doubt"])
        err.print(f"[yellow]warning:[/] {escape(doubt)}; clients are warned of it too")
    out.print("run it:")
    out.print(f"  {escape(served.command)}")
    if served.note:
        out.print(f"  {escape(served.note)}")
