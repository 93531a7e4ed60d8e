#!/usr/bin/env bash
# Guess: safetensors.numpy.save_file either keeps an array of any layout or refuses it, as
# safetensors.torch does with a tensor that is not contiguous.
# What happens: it writes the memory as it lies, under the array's shape, and says nothing. A transposed
# matrix or one in Fortran order comes back with its numbers in other places, in the right shape.
# Why it matters: a unit's output weights are a column of down_proj or fc_out, so people save W.T to have
# one row a unit; the masks that pycocotools decodes are in Fortran order. Either file loads without
# complaint, every statistic over all its numbers is right, and each single unit or patch is wrong.
# numpy.ascontiguousarray before saving avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import numpy, safetensors
from safetensors.numpy import load_file, save_file

print("safetensors", safetensors.__version__, "numpy", numpy.__version__)
w_out = numpy.arange(12, dtype=numpy.float32).reshape(3, 4)  # width 3, four units
mask = numpy.asfortranarray([[1, 1, 1], [0, 0, 0]], dtype=numpy.uint8)
cases = {
    "plain": w_out,
    "transposed": w_out.T,
    "Fortran order": mask,
    "transposed and copied": numpy.ascontiguousarray(w_out.T),
}
kept = {}
for name, array in cases.items():
    save_file({"array": array}, "array.safetensors")
    loaded = load_file("array.safetensors")["array"]
    same_bag = sorted(loaded.ravel()) == sorted(array.ravel()) and loaded.shape == array.shape
    kept[name] = numpy.array_equal(loaded, array)
    print(f"{name}: equal {kept[name]}, same shape and same numbers {same_bag}")
    print("  saved ", array.tolist())
    print("  loaded", loaded.tolist())
    if not same_bag:
        sys.exit(f"{name}: the file has other numbers than expected.")
if list(kept.values()) != [True, False, False, True]:
    sys.exit("safetensors.numpy now keeps arrays that are not in C order.")
END
