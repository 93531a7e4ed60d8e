#!/usr/bin/env bash
# Guess: a model's own input embeddings of some text, given as inputs_embeds in place of the ids, give
# the same logits, in bfloat16 as in float32; so the language model can be run behind any soft prompt.
# What happens: Gemma 4's small models add to each layer something that is looked up by token id. Without
# ids they are looked for: each row is compared, to the bit, with the whole embedding matrix times the
# square root of the width. The embedding layer rounds that root to bfloat16 first, the comparison does
# not; so where the root is no bfloat16 number (width 1536, 24) a model in bfloat16 refuses its own
# embeddings of plain text, and where it is one (64, 2304) or in float32 they pass. An embedding that is
# no row of the matrix, as an image token's, is refused everywhere.
# Why it matters: prompts are built from embeddings wherever pictures or soft prompts are put into a
# language model; tests of that in float32 pass, and the checkpoint in its own type does not run.
# per_layer_inputs handed over beside the embeddings avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import torch, transformers
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.set_grad_enabled(False)
ids = torch.tensor([[5, 6, 7, 8, 9, 10]])


def outcome(width, dtype, noise=0.0):
    """Run a small model on its own embeddings of ids; "equal" where the logits are those of ids."""
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        vocab_size=60, vocab_size_per_layer_input=60, hidden_size=width, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, global_head_dim=16,
        sliding_window=32, hidden_size_per_layer_input=8, eos_token_id=None, initializer_range=0.3,
        layer_types=["sliding_attention", "full_attention"])
    model = Gemma4ForCausalLM(config).eval().to(dtype)
    embeds = model.get_input_embeddings()(ids)
    embeds[:, 2] += noise
    try:
        logits = model(inputs_embeds=embeds).logits
    except RuntimeError:
        return "refused"
    return "equal" if torch.equal(logits, model(ids).logits) else "other"


found = {}
for width in (64, 24, 1536, 2304):
    for dtype in (torch.float32, torch.bfloat16):
        found[width, dtype] = outcome(width, dtype)
        print(f"width {width}, {dtype}: own embeddings of plain text: {found[width, dtype]}")
soft = outcome(64, torch.float32, noise=0.5)
print(f"width 64, torch.float32, one row that is no token's: {soft}")
expected = {(w, d): "refused" if d == torch.bfloat16 and w in (24, 1536) else "equal" for w, d in found}
if found != expected or soft != "refused":
    sys.exit("Gemma 4 takes its own embeddings otherwise than it did.")
END
