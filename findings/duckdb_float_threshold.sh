#!/usr/bin/env bash
# Guess: "score >= 0.7" and "score >= ?" with the parameter 0.7 are the same question.
# What happens: on a FLOAT column they are not. The literal 0.7 is a DECIMAL, for which DuckDB
# compares in single precision, so a stored 0.7 passes; a Python float is a DOUBLE, for which the
# column is widened to 0.699999988, so the same row fails. 7e-1 behaves as the parameter does. pandas
# compares a float32 column with 0.7 in single precision, so it sides with the literal.
# Why it matters: activations and scores are stored in single precision. Turning a query with the
# number written in it into one with a parameter, as good practice has it, drops the units that lie at
# the threshold, and "= ?" finds none of them.
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
scores = (numpy.arange(11) / 10).astype(numpy.float32)
table = pandas.DataFrame({"unit": numpy.arange(11), "score": scores})
base = duckdb.connect()


def found(condition, *values):
    query = f"SELECT unit FROM units WHERE {condition} ORDER BY unit"
    return [unit for (unit,) in base.execute(query, values).fetchall()]


base.register("units", table)
literal, parameter = found("score >= 0.7"), found("score >= ?", 0.7)
exponent, frame = found("score >= 7e-1"), table[table.score >= 0.7].unit.to_list()
equal = found("score = 0.7"), found("score = ?", 0.7)
print("score >= 0.7  ", literal)
print("score >= ?    ", parameter)
print("score >= 7e-1 ", exponent)
print("pandas        ", frame)
print("score = 0.7   ", equal[0], "  score = ?", equal[1])
as_said = literal == frame == [7, 8, 9, 10] and parameter == exponent == [8, 9, 10]
if not (as_said and equal == ([7], [])):
    sys.exit("DuckDB now compares a FLOAT column alike with a literal and with a parameter.")
END
