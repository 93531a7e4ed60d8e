#!/usr/bin/env bash
# Guess: papermill gives a notebook a tuple as a tuple, or as a list as JSON would.
# What happens: lists and dicts are translated item by item, a tuple is not among the kinds it knows and
# is written as quoted text: layers=(5, 6) arrives as the string "(5, 6)". The keys of a dict become
# text too, so {7: [1]} arrives as {"7": [1]}. The executed notebook's own metadata have the tuple as
# a list of numbers, so a look there shows nothing wrong.
# Why it matters: a run over layers or nouns works on text. "horse" in nouns is then a test of letters,
# which "hors" and ", " pass as well; len(layers) is 6 for two layers; chosen.get(7) finds no units, and
# an ablation of none changes nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check papermill==2.7.0 ipykernel==7.4.0 nbformat==5.11.1
cd "$folder"
venv/bin/python - <<'END'
import logging, sys
from importlib.metadata import version
import nbformat
import papermill

logging.disable()
print("papermill", version("papermill"))
cells = [
    nbformat.v4.new_code_cell("layers = nouns = ()\nchosen = {}", metadata={"tags": ["parameters"]}),
    nbformat.v4.new_code_cell("print([layers, nouns, chosen])\nprint(['hors' in nouns, len(layers)])"),
]
kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), "study.ipynb")
given = {"layers": (5, 6), "nouns": ("horse", "dog"), "chosen": {7: [1, 2]}}
done = papermill.execute_notebook("study.ipynb", "done.ipynb", parameters=given, progress_bar=False)
printed = done.cells[-1].outputs[0].text.strip()
print("given:   ", given)
print("arrived: ", printed)
expected = [["(5, 6)", "('horse', 'dog')", {"7": [1, 2]}], [True, 6]]
if printed != "\n".join(map(str, expected)):
    sys.exit("papermill no longer turns a tuple into text.")
END
