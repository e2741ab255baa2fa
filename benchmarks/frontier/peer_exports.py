"""What a peer's own Python does: it trains a model on good images, and exports it.

    PYTHON -m benchmarks.frontier.peer_exports FOLDER

FOLDER has ``options.json``, those of a pair of ``frontier.toml`` with the number of ``threads``,
and good images in ``train`` and ``held_out``. The peer's module, such as ``anomalib_models.py``,
trains, and gives a function for each export. Writes the exports and, last, ``built.json``.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace

OPTIONS, BUILT = "options.json", "built.json"
# INT8 is calibrated on so many of the held-out images.
CALIBRATED = 100
_PACKAGES = {"anomalib", "anomavision", "nncf", "numpy", "onnxruntime", "openvino", "timm", "torch"}


def main() -> None:
    """Train and export; an export that fails says why."""
    folder = Path(sys.argv[1])
    options = SimpleNamespace(**json.loads((folder / OPTIONS).read_text(encoding="utf-8")))
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    seconds, facts, forms = import_module(f"benchmarks.frontier.{options.peer}_models").build(options, folder)
    exports = {}
    for name, form in forms.items():
        try:
            exports[name] = {"path": str(form().resolve())}
        # Whatever is raised here concerns this export alone.
        except Exception as error:
            exports[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    versions = {each.name: each.version for each in distributions() if each.name in _PACKAGES}
    record = {"seconds": seconds, "facts": facts, "exports": exports, "versions": versions}
    (folder / BUILT).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
