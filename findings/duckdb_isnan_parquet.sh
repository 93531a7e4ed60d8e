#!/usr/bin/env bash
# Guess: DuckDB's isnan(score) finds the NaN of a Parquet file as it finds the NaN of a table.
# What happens: the least and greatest value that pyarrow notes for a row group leave NaN out.
# DuckDB 2.0 trusts them: isnan() finds no row, max() is the greatest ordinary number, and "score > t",
# true of NaN in a table, keeps the NaN row for a small t and loses it once t reaches the other scores.
# The same rows copied by DuckDB itself into a table or a Parquet file are answered rightly.
# Why it matters: a table of unit scores with an overflow in it passes the usual check for NaN, and
# whether the broken unit is among "those above the threshold" depends on its neighbours in the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import duckdb, numpy, pyarrow
import pyarrow.parquet

print("duckdb", duckdb.__version__, "pyarrow", pyarrow.__version__, "numpy", numpy.__version__)
scores = pyarrow.table({"unit": [10, 11, 12], "score": numpy.array([0.9, numpy.nan, 0.1])})
pyarrow.parquet.write_table(scores, "scores.parquet")
base = duckdb.connect()
base.execute("CREATE TABLE scores AS FROM 'scores.parquet'")
base.execute("COPY scores TO 'copied.parquet'")


def units(source, condition):
    rows = base.execute(f"SELECT unit FROM {source} WHERE {condition} ORDER BY unit").fetchall()
    return [unit for (unit,) in rows]


seen = {}
for source in ("scores", "'copied.parquet'", "'scores.parquet'"):
    tests = ("isnan(score)", "score > 0.5", "score > 0.95")
    seen[source] = [units(source, test) for test in tests]
    seen[source].append(base.execute(f"SELECT max(score) FROM {source}").fetchone()[0])
    print(f"{source:17}", dict(zip((*tests, "max"), seen[source])))

right, copied, file = seen.values()
as_said = right[:3] == copied[:3] == [[11], [10, 11], [11]] and numpy.isnan(right[3])
if not (as_said and file == [[], [10, 11], [], 0.9]):
    sys.exit("DuckDB no longer loses the NaN of a Parquet file that pyarrow wrote.")
END
