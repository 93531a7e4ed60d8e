"""Train the miniature of mPLUG-Owl2: a ViT, an abstractor, LLaMA's weights for image tokens.

The vision tower begins as the tiny CLIP's, whose modules are the same, and learns on,
gently, with the abstractor. In the language model only what image tokens go through is
trained: their norms, keys and values, which begin as those for text. All else is frozen,
so text alone is processed as by the language model that it came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaForCausalLM

from mmn_utils.miniature.captioning import Batches, CaptionIds, Drawn, caption_loss, in_parts
from mmn_utils.miniature.chat import TEMPLATES, command, count_trained, record_training
from mmn_utils.miniature.clip import load_tower, tower_shape
from mmn_utils.miniature.llama import load_llama
from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.vision.encoder import PIXEL_MEAN, PIXEL_STD, to_input
from mmn_utils.miniature.world import World
from mmn_utils.models.mplug_owl2.config import AbstractorConfig, MplugOwl2Config, VisionConfig
from mmn_utils.models.mplug_owl2.network import MplugOwl2ForCausalLM
from mmn_utils.models.mplug_owl2.system import MplugOwl2, MplugOwl2Facts, build_mplug_owl2
from mmn_utils.models.mplug_owl2.weights import save_mplug_owl2, text_weights
from mmn_utils.training.loop import Schedule, Summand, fast_autocast, train

FACTS = MplugOwl2Facts(name="miniature/mplug_owl2", mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3)
STAGE = Schedule(steps=1100, rate=1e-3, final=0.02, save_every=50)
TOWER = r"\.vision_model\."
FRESH = r"\.visual_abstractor\.|\.multiway\.1\."  # of two ways, the one of image tokens


@dataclass(frozen=True)
class MplugOwl2Options:
    """Shape of the abstractor, and training."""

    queries: int = 16
    depth: int = 2
    units: int = 352
    batch: int = 16
    part: int = 8  # of the batch, at a time
    stage: Schedule = STAGE
    seed: int = 0


def configure(
    vision: CLIPVisionModel, language: LlamaForCausalLM, options: MplugOwl2Options
) -> MplugOwl2Config:
    """Take the sizes of the parts that the model begins with."""
    clip, llama = vision.config, language.config
    return MplugOwl2Config(
        vocab_size=llama.vocab_size,
        hidden_size=llama.hidden_size,
        intermediate_size=llama.intermediate_size,
        num_hidden_layers=llama.num_hidden_layers,
        num_attention_heads=llama.num_attention_heads,
        num_key_value_heads=llama.num_key_value_heads,
        max_position_embeddings=llama.max_position_embeddings,
        rms_norm_eps=llama.rms_norm_eps,
        rope_theta=llama.rope_parameters["rope_theta"],
        vision=VisionConfig(**tower_shape(vision)),
        abstractor=AbstractorConfig(
            num_learnable_queries=options.queries,
            hidden_size=clip.hidden_size,
            intermediate_size=options.units,
            num_hidden_layers=options.depth,
            num_attention_heads=clip.num_attention_heads,
        ),
    )


_NAMES = (  # CLIP's, mPLUG-Owl2's
    ("embeddings.class_embedding", "embeddings.cls_token"),
    ("embeddings.patch_embedding.", "embeddings.patch_embed."),
    ("embeddings.position_embedding.weight", "embeddings.position_embedding"),
    ("pre_layrnorm.", "embeddings.pre_layernorm."),
    ("layer_norm1.", "input_layernorm."),
    ("layer_norm2.", "post_attention_layernorm."),
    ("self_attn.out_proj.", "self_attn.dense."),
)
_PART = re.compile(r"(.*self_attn\.)[qkv]_proj\.(weight|bias)")


def tower_weights(vision: CLIPVisionModel) -> dict[str, Tensor]:
    """Rename CLIP's weights; query, key and value become one matrix, interleaved per head."""
    heads, state = vision.config.num_attention_heads, vision.state_dict()
    found = {}
    for name, tensor in state.items():
        if part := _PART.fullmatch(name):
            stem, kind = part.groups()
            three = [state[f"{stem}{one}_proj.{kind}"].unflatten(0, (heads, -1)) for one in "qkv"]
            found[f"{stem}query_key_value.{kind}"] = torch.stack(three, dim=1).flatten(0, 2)
            continue
        for theirs, ours in _NAMES:
            name = name.replace(theirs, ours)
        found[name] = tensor
    for name in ("embeddings.cls_token", "embeddings.position_embedding"):
        width = vision.config.hidden_size
        found[name] = found[name].reshape(1, -1, width)
    return found


def join(
    vision: CLIPVisionModel, language: LlamaForCausalLM, tokenizer, options: MplugOwl2Options
) -> MplugOwl2ForCausalLM:
    """Build the model: CLIP's tower, a fresh abstractor, LLaMA's weights for both modalities."""
    torch.manual_seed(options.seed)
    network = MplugOwl2ForCausalLM(configure(vision, language, options))
    text = text_weights(language.state_dict())
    image = {name.replace(".multiway.0.", ".multiway.1."): part for name, part in text.items()}
    tower = {f"model.vision_model.{name}": part for name, part in tower_weights(vision).items()}
    lost = network.load_state_dict({**image, **text, **tower}, strict=False)
    strange = [name for name in lost.missing_keys if ".visual_abstractor." not in name]
    if strange or lost.unexpected_keys:
        raise ValueError(f"CLIP and LLaMA do not fit: {strange + list(lost.unexpected_keys)}")
    first = len(TEMPLATES["mplug_owl2"].ids(tokenizer)[0])
    network.image_span = (first, first + options.queries + 1)
    return network.eval().requires_grad_(False)


def unfrozen(network: MplugOwl2ForCausalLM, names: str) -> list[nn.Parameter]:
    """Unfreeze and return the parameters in whose names a pattern is found."""
    found = [part for name, part in network.named_parameters() if re.search(names, name)]
    return [parameter.requires_grad_(True) for parameter in found]


class MplugOwl2Trainer:
    """Trains everything that is not for text."""

    def __init__(
        self,
        network: MplugOwl2ForCausalLM,
        tokenizer,
        scenes: SceneSet,
        world: World,
        options: MplugOwl2Options,
    ) -> None:
        self.network, self.scenes, self.options = network, scenes, options
        self.around = TEMPLATES["mplug_owl2"].ids(tokenizer)
        captions = CaptionIds(scenes, world, tokenizer).ids
        self.batches = Batches(captions, options.batch, (options.seed,))

    def losses(self, step: int) -> list[Summand]:
        """Return the summands of captions' loss in a step."""
        return in_parts(self.batches.at(step), self.options.part, self._loss)

    def _loss(self, drawn: Drawn) -> Tensor:
        parts = self.network.model
        with fast_autocast():
            seen = parts.vision_model(to_input(self.scenes.images[drawn.rows]))
            soft = parts.visual_abstractor(seen)
        return caption_loss(self._last_logits, parts.embed_tokens, self.around, soft, drawn.labels)

    def _last_logits(self, embeds: Tensor, count: int) -> Tensor:
        return self.network(embeds, logits_to_keep=count).logits

    def run(self, work: Path) -> None:
        """Train."""
        options = self.options
        train(
            "mplug_owl2",
            unfrozen(self.network, FRESH),
            self.losses,
            options.stage,
            work,
            options.batch,
            gently=unfrozen(self.network, TOWER),
        )


def make_mplug_owl2(
    scenes: SceneSet, world: World, data: Path, work: Path, options: MplugOwl2Options
) -> MplugOwl2:
    """Train from the parts in ``data`` (or go on), save beside them, return the system."""
    language, tokenizer = load_llama(data / "llama")
    vision = load_tower(data / "clip")
    network = join(vision, language, tokenizer, options)
    MplugOwl2Trainer(network, tokenizer, scenes, world, options).run(work)
    trained_parameters = count_trained(network)
    system = build_mplug_owl2(FACTS, network, tokenizer)
    save_mplug_owl2(system, data / "mplug_owl2", data / "llama", dtype=torch.float16)
    record_training(data / "mplug_owl2", options, trained_parameters)
    return system


def main() -> None:
    """Train the miniature of mPLUG-Owl2, or go on training it, and measure it."""
    command("mplug_owl2", make_mplug_owl2, MplugOwl2Options(), main.__doc__)


if __name__ == "__main__":
    main()
