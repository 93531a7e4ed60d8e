#!/usr/bin/env bash
# Guess: tokenizer.batch_decode(ids) of a flat list of ids gives one text per id. It did for years, and
# it is the usual way to read the top tokens of a unit or of a logit lens.
# What happens: in transformers 5 the flat list, array or tensor counts as one sequence, and a list of
# ONE text comes back, with all tokens run together. Only nested ids give a text each.
# Why it matters: nothing is raised. "Ten top tokens" become one long string: words[0] is all of them,
# zip(words, logits) keeps one pair and drops nine, a test of how many tokens are words counts one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import numpy, tokenizers, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
words = ["\u0120horses", "\u0120racing", "\u0120ponies", "\u0120ridden"]  # byte level, blank in front
core = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
core.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)

top, logits = [0, 1, 2, 3], [9.1, 8.7, 8.2, 7.5]
flat = tokenizer.batch_decode(top)
array = tokenizer.batch_decode(numpy.array(top))
nested = tokenizer.batch_decode([[token] for token in top])
print("flat list   ", flat)
print("numpy array ", array)
print("nested      ", nested)
print("zipped with four logits:", list(zip(flat, logits)))
if not (flat == array == [" horses racing ponies ridden"] and len(nested) == 4):
    sys.exit("batch_decode gives one text per id of a flat list again.")
END
