#!/usr/bin/env bash
# Guess: a forward hook on a decoder layer sees the whole prompt in generate's first pass, whatever the
# layer, and what it changes there at the prompt's tokens changes what is said.
# What happens: in Gemma 4's small models the last layers take keys and values from earlier ones
# (num_kv_shared_layers). generate asks for the last token's logits alone, and from the first of those
# layers on everything is then cut to that one position. Hooks there see one token of the
# prompt; an ablation of prompt positions by index changes nothing or another token, and nothing is
# raised. model(ids) keeps all positions, model(ids, logits_to_keep=1) does not, and asking for hidden
# states brings them back.
# Why it matters: activations of image tokens and ablations at them are collected with such hooks, and
# the later layers go missing, or are read at the wrong token, only when the text is generated.
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
torch.manual_seed(0)
config = Gemma4TextConfig(
    vocab_size=60, vocab_size_per_layer_input=60, hidden_size=32, intermediate_size=64, num_hidden_layers=6,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, global_head_dim=16, sliding_window=32,
    num_kv_shared_layers=3, hidden_size_per_layer_input=8, eos_token_id=None, initializer_range=0.3,
    layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2)
model = Gemma4ForCausalLM(config).eval()
ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
seen = {}


def look_at(index, layer):
    """Note how many positions the MLP of a layer works on in the first pass after a clearing."""
    def note(_module, _inputs, out):
        seen.setdefault(index, out.shape[1])
    layer.mlp.register_forward_hook(note)


for index, layer in enumerate(model.model.layers):
    look_at(index, layer)


def positions(run):
    """Count the positions that a hook on each layer's MLP sees in the first pass."""
    seen.clear()
    run()
    return [seen[i] for i in range(6)]


found = {
    "generate": positions(lambda: model.generate(ids, max_new_tokens=1, do_sample=False)),
    "forward": positions(lambda: model(ids)),
    "forward, logits_to_keep=1": positions(lambda: model(ids, logits_to_keep=1)),
    "the same, hidden states asked for": positions(
        lambda: model(ids, logits_to_keep=1, output_hidden_states=True)),
}
for name, counts in found.items():
    print(f"{name}: positions of 6 seen in layers 0 to 5: {counts}")
cut, whole = [6, 6, 6, 1, 1, 1], [6] * 6
if list(found.values()) != [cut, whole, cut, whole]:
    sys.exit("hooks on the layers that share keys and values see other positions than they did.")
END
