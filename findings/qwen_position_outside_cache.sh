#!/usr/bin/env bash
# Guess: a prompt's KV cache, copied, is all the state there is; the same cache and the same next token
# give the same logits, whatever the model did in between.
# What happens: Qwen2-VL counts an image's positions by rows and columns, so text after it stands at a
# smaller position than its index. The difference of the LAST prompt is kept on the model (rope_deltas),
# not in the cache. After a forward of a prompt with a picture of another size, the first prompt's cache
# is continued at wrong positions. Nothing is raised; the first prompt's own forward mends it.
# Why it matters: sharing a prompt's cache among ablations, and taking pictures in turn, is how
# interventions are made cheap. Here the caption changes with the picture that was looked at last, which
# reads as an effect of the ablation. Explicit position_ids with every call avoid it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import copy, sys
import torch, transformers
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.set_grad_enabled(False)
torch.manual_seed(0)
rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
text = dict(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, rope_parameters=rope, initializer_range=0.3)
vision = dict(depth=1, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2)
config = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=5, video_token_id=6,
                       vision_start_token_id=7, vision_end_token_id=8)
model = Qwen2VLForConditionalGeneration(config).eval()


def prompt(side, *more):
    """A picture of side x side patches, merged two by two into image tokens, and some text."""
    ids = torch.tensor([[1, 7] + [5] * (side // 2) ** 2 + [8, 10, 11, 12, *more]])
    pixels = torch.sin(torch.arange(side * side * 1176.0)).reshape(side * side, 1176)
    return dict(input_ids=ids, mm_token_type_ids=(ids == 5).int(), pixel_values=pixels,
                image_grid_thw=torch.tensor([[1, side, side]]))


def continued(cache):
    out = model(input_ids=torch.tensor([[13]]), past_key_values=copy.deepcopy(cache))
    return out.logits[0, -1].softmax(-1)


whole = model(**prompt(16, 13)).logits[0, -1].softmax(-1)
cache = model(**prompt(16), use_cache=True).past_key_values
at_once = continued(cache)
model(**prompt(4))
after_other = continued(cache)
gaps = [float((p - whole).abs().max()) for p in (at_once, after_other)]
for name, p, gap in (("at once", at_once, gaps[0]), ("after another picture", after_other, gaps[1])):
    print(f"cache continued {name}: top token {int(p.argmax())}, off the whole prompt by {gap:.1e}")
if not (gaps[0] < 1e-4 and gaps[1] > 1e-2):
    sys.exit("A cache of Qwen2-VL is now continued alike whatever prompt was read last.")
END
