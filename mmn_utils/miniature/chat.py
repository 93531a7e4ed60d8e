"""What the miniatures of paper B share: their prompts, their text, stages and measure.

Each system has the prompt that its adapter has: the instruction "Describe the image in
few words." and the caption's opening "An image of", in the system's own template. The
language model reads the same templates in its text, around descriptions instead of
pictures, as a chat model does that never saw one.

Run ``python -m mmn_utils.miniature.chat`` to measure the trained systems.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mmn_utils.datasets import load_dataset
from mmn_utils.miniature.captioning import Ids
from mmn_utils.miniature.commands import parser_of, world_and_scenes
from mmn_utils.miniature.corpus import PROMPT
from mmn_utils.miniature.language import Rows
from mmn_utils.miniature.quality.captions import caption_quality
from mmn_utils.miniature.quality.intervals import share
from mmn_utils.miniature.world import WORLD_FILE, World, load_world
from mmn_utils.models import load_model
from mmn_utils.models.instructblip import InstructBlipFacts
from mmn_utils.models.llava.system import LlavaFacts
from mmn_utils.models.mplug_owl2.system import MplugOwl2Facts
from mmn_utils.training.loop import keep_freed_memory

# --- prompts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """Texts before and behind the picture, and before which the beginning of text stands."""

    before: str
    behind: str
    bos_first: bool = True

    def ids(self, tokenizer) -> Ids:
        """Encode what stands before the picture and behind it, as the adapters do."""
        texts = (self.before, self.behind)
        before, behind = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
        start = [tokenizer.bos_token_id]
        return (start + before, behind) if self.bos_first else (before, start + behind)


TEMPLATES = {
    "llava": Template(LlavaFacts.before, LlavaFacts.prefix),
    "instructblip": Template("", InstructBlipFacts.prefix, bos_first=False),
    "mplug_owl2": Template(MplugOwl2Facts.before, MplugOwl2Facts.prefix),
}


# --- text ---------------------------------------------------------------------------------


class ChatRows(Rows):
    """The corpus's rows, each caption behind the prompt of a system drawn for it.

    The description stands where the picture will. A model that reads the beginning of
    text behind a picture, as InstructBLIP's does, must have met it there; of seven
    billion parameters that can be taken for granted, of five million it cannot.
    """

    def documents(self, step: int) -> Iterator[list[int]]:
        """Yield documents as token ids, with beginning and end of text."""
        rng = np.random.default_rng((self.seed, step))
        around = [template.ids(self.tokenizer) for template in TEMPLATES.values()]
        for text in self.texts(step):
            yield self._document(text, around[rng.integers(len(around))])

    def _document(self, text: str, around: Ids) -> list[int]:
        """Encode one document; ``around`` is what comes before and behind a description."""
        context, prompted, caption = text.partition(f"\n{PROMPT}")
        before, behind = around if prompted else ([self.tokenizer.bos_token_id], [])
        seen, said = (self.tokenizer.encode(part) for part in (context, caption))
        return [*before, *seen, *behind, *said, self.tokenizer.eos_token_id]


# --- how they were trained ----------------------------------------------------------------


def count_trained(network: torch.nn.Module) -> int:
    """Count the parameters that a training has unfrozen."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def record_training(folder: Path, options, trained: int) -> None:
    """Write how a system was trained, and how many of its parameters, beside its weights."""
    text = json.dumps({"trained_parameters": trained, **asdict(options)}, indent=1)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")


# --- what they are worth ------------------------------------------------------------------


def first_noun(model, photographs: Sequence, world: World) -> dict[str, float]:
    """Return how often a caption's first noun is in its scene, with its interval."""
    value, low, high, scenes = share(caption_quality(model, photographs, world)["right"])
    return {"first_noun": value, "low": low, "high": high, "scenes": scenes}


def record_quality(folder: Path, world: World, scenes: int = 200) -> dict[str, float]:
    """Measure a saved system on held-out scenes; the numbers go beside its weights."""
    found = first_noun(load_model(folder), load_dataset("miniature").sample(scenes, 0), world)
    found = {name: round(value, 4) for name, value in found.items()}
    (folder / "quality.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(folder.name, found, flush=True)
    return found


def command(system: str, make: Callable, options, about: str) -> None:
    """Train one system from the command line, or go on training it, and measure it.

    ``make`` takes scenes, world, the folder of the data, that of the work, and ``options``.
    """
    arguments = parser_of(about).parse_args()
    keep_freed_memory()
    world, scenes = world_and_scenes(arguments.data, arguments.work)
    make(scenes, world, arguments.data, arguments.work, options)
    record_quality(arguments.data / system, world)


def main() -> None:
    """Measure the trained systems on held-out scenes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", choices=TEMPLATES)
    parser.add_argument("--data", type=Path, default=WORLD_FILE.parent)
    parser.add_argument("--scenes", type=int, default=200)
    arguments = parser.parse_args()
    world = load_world(arguments.data / "concepts.yaml")
    for system in TEMPLATES:
        if arguments.only in (None, system):
            record_quality(arguments.data / system, world, arguments.scenes)


if __name__ == "__main__":
    main()
