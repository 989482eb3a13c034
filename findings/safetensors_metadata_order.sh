#!/usr/bin/env bash
# safetensors: the same tensors and metadata are written as different bytes, as metadata have a random order.
#
# Six entries of metadata and one tensor, written by eight processes. What is read again is the same, so that
# posteriors of networks and other files must be compared by content; a checksum of a file does not tell whether two
# runs gave the same. Exits with an error once all files are equal. Needs a network for the packages alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet safetensors==0.8.0 numpy==2.2.6
for run in 1 2 3 4 5 6 7 8; do
  "$folder/venv/bin/python" - "$folder/$run.safetensors" <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import save_file

words = {f"name {i}": str(i) for i in range(6)}
save_file({"w": np.zeros(2, np.float32)}, sys.argv[1], metadata=words)
PYTHON
done
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import safetensors

files = sorted(Path(sys.argv[1]).glob("*.safetensors"))
contents = []
for path in files:
    with safetensors.safe_open(path, "numpy") as file:
        contents.append((file.metadata(), file.get_tensor("w").tolist()))
different = len({path.read_bytes() for path in files})
print("safetensors", safetensors.__version__)
print(f"{len(files)} files of the same content: {different} different files by their bytes")
assert all(content == contents[0] for content in contents)
assert different > 1, "the behaviour has changed"
PYTHON
