"""Run the data stage for several run files on one cluster; print wall s, CPU s and peak GB of the last.

python benchmarks/warm_prepare.py OUT MEMORY RUN...
"""

import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.process_tree import Watch
from raysys.distributed.cluster import connect
from raysys.distributed.datasets import prepare
from raysys.run import load_run
from raysys.storage import Folder


def main(out: str, memory: bool, files: list[str]) -> list[float]:
    figures = [0.0, 0.0, 0.0]
    connect("local", load_run(files[0]).cluster)
    for file in files:
        shutil.rmtree(out, ignore_errors=True)
        with Watch(memory=memory) as watch:
            begin = time.monotonic()
            prepare(load_run(file), Folder(out))
            wall = time.monotonic() - begin
        figures = [wall, watch.cpu_s, watch.peak_gb]
    return figures


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2] == "1", sys.argv[3:])))
