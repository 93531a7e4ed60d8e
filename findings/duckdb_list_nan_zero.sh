#!/usr/bin/env bash
# Guess: a list of activations with a NaN in it comes back from DuckDB with the NaN in its place.
# What happens: on the way in from a pandas frame the NaN inside the list becomes NULL. On the way out
# the lists with a NULL are numpy masked arrays, the others plain arrays, in one column. Printed, the
# gap shows; but numpy.stack, vstack and concatenate drop the mask, and what lies beneath is 0.
# A column of plain numbers differs: its NULL comes back as NaN. So does a list that came from Arrow.
# Why it matters: a heat map is kept as one list of patch activations per unit. Stacked for a mean or
# an argmax, the patch that could not be measured reads as an activation of exactly 0, the greatest of
# all where the others are negative, as pre-activations mostly are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1 numpy==2.4.6 pandas==3.1.1
cd "$folder"
venv/bin/python - <<'END'
import sys
import duckdb, numpy, pandas

print("duckdb", duckdb.__version__, "pandas", pandas.__version__, "numpy", numpy.__version__)
nan = float("nan")
maps = pandas.DataFrame({"unit": [1, 2], "patches": [[-0.5, nan, -0.7], [-0.1, -0.2, -0.3]]})
maps["peak"] = [nan, -0.1]
back = duckdb.connect().execute("SELECT * FROM maps ORDER BY unit").df()
stacked = numpy.stack(back["patches"])
print(back)
print("kinds:", [type(row).__name__ for row in back["patches"]])
print("stacked:", stacked.tolist())
print("mean over units:", stacked.mean(0).tolist())
print("strongest patch of each unit:", stacked.argmax(1).tolist())
print("column of plain numbers:", back["peak"].to_list())
as_said = stacked.tolist()[0] == [-0.5, 0.0, -0.7] and stacked.argmax(1)[0] == 1
if not (as_said and not numpy.ma.is_masked(stacked) and numpy.isnan(back["peak"][0])):
    sys.exit("A NaN inside a list no longer comes back from DuckDB as a 0 once lists are stacked.")
END
