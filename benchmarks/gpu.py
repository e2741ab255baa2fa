"""The command ``python benchmarks/gpu.py``: ``gpu/run.py``; an import gets that package."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.gpu.run import main

    sys.argv[0] = "python benchmarks/gpu.py"
    main()
