#!/usr/bin/env bash
# Guess: COCO.getCatIds(catNms="hot dog") gives the one category of that name, or fails because it wants
# a list.
# What happens: it tests "name in catNms", and a string is left as it is, so every category whose name
# is a piece of the string is found: dog with hot dog, bear with teddy bear, car with carrot. A name
# without such a piece, "dog", gives one id, so the habit looks sound. With a list in another order the
# ids still come in the file's order, so zip(names, ids) is wrong.
# Why it matters: the overlap of a unit's heat map with "the carrot masks" is then taken over carrots and
# cars, in an IoU and in every count of pictures, with nothing to see but other numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import contextlib, io, sys
from importlib.metadata import version
from pycocotools.coco import COCO

print("pycocotools", version("pycocotools"))
names = ["car", "dog", "bear", "carrot", "hot dog", "teddy bear"]
coco = COCO()
coco.dataset = {
    "images": [{"id": i, "height": 8, "width": 8} for i in range(1, 7)],
    "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    "annotations": [
        {"id": i, "image_id": i, "category_id": i, "area": 4.0 * i, "iscrowd": 0,
         "bbox": [0, 0, 4, i], "segmentation": [[0, 0, 4, 0, 4, i, 0, i]]}
        for i in range(1, 7)
    ],
}
with contextlib.redirect_stdout(io.StringIO()):
    coco.createIndex()
found = {}
for name in names:
    ids = coco.getCatIds(catNms=name)
    found[name] = [names[i - 1] for i in ids]
    areas = [a["area"] for a in coco.loadAnns(coco.getAnnIds(catIds=ids))]
    print(f"getCatIds({name!r}) -> {found[name]}, areas of their annotations {areas}")
asked = ["teddy bear", "dog"]
order = [names[i - 1] for i in coco.getCatIds(catNms=asked)]
print(f"getCatIds({asked}) -> {order}")
more = {"carrot": ["car", "carrot"], "hot dog": ["dog", "hot dog"], "teddy bear": ["bear", "teddy bear"]}
if found != {name: more.get(name, [name]) for name in names} or order != asked[::-1]:
    sys.exit("getCatIds now takes a string for one name, or keeps the order that was asked for.")
END
