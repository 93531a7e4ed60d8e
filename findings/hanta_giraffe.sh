#!/usr/bin/env bash
# Guess: an English tagger takes the plain names of COCO's categories for nouns, and its lemma of a plural
# is the singular.
# What happens: HanTa's English model tags "giraffe" UNC (unclassified) in nearly every caption; "remote"
# on a couch is an adjective, the bears of "teddy bears" are a verb. "skis" get the lemma sky, and
# "toaster", "surfer" and "skateboarder" are plurals of toast, surf, skateboard.
# Why it matters: the first noun of the caption is what neurons are attributed to. For a giraffe in the
# grass it is the grass; grouped by lemma, skiers' neurons land among those for the sky. Such captions
# are worth a look by hand, or a list of their own, before a rate over classes is believed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check HanTa==1.2.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
from importlib.metadata import version
from HanTa import HanoverTagger

print("HanTa", version("HanTa"))
tagger = HanoverTagger.HanoverTagger("morphmodel_en.pgz")
captions = {
    "a giraffe standing in the grass .": {"giraffe": ("giraffe", "UNC"), "grass": ("grass", "NN1")},
    "two zebras and a giraffe .": {"zebras": ("zebra", "NN2")},
    "a remote on a couch .": {"remote": ("remote", "AJ0")},
    "two teddy bears on a bed .": {"bears": ("bear", "VVZ")},
    "a man on skis .": {"man": ("man", "NN1"), "skis": ("sky", "NN2")},
    "a toaster on a table .": {"toaster": ("toast", "NN2"), "table": ("table", "NN1")},
    "a surfer on a wave .": {"surfer": ("surf", "NN2")},
    "a skateboarder in a park .": {"skateboarder": ("skateboard", "NN2")},
}
changed = []
for caption, expected in captions.items():
    tagged = tagger.tag_sent(caption.split())
    nouns = [word for word, lemma, tag in tagged if tag.startswith("N")]
    print(f"{caption:34} nouns {nouns}; {[entry for entry in tagged if entry[0] in expected]}")
    found = {word: (lemma, tag) for word, lemma, tag in tagged}
    changed += [word for word, entry in expected.items() if found[word] != entry]
if changed:
    sys.exit(f"HanTa now reads these otherwise: {', '.join(changed)}.")
END
