"""The command ``python benchmarks/gpu.py``, which scripts for GPU machines call: ``gpu/run.py``.

Whoever imports ``benchmarks.gpu`` gets the package of that name: Python prefers a package to a
module.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.gpu.run import main

    sys.argv[0] = "python benchmarks/gpu.py"
    main()
