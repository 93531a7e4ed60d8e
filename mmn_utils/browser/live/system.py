"""What the browser asks of a system itself: captions, scores, heat maps, exact ablation.

All of it is of the system as it is; what interventions make of it is told by ``stack``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import wraps

import pandas as pd
import torch
from PIL import Image

from mmn_utils.browser.views import METHODS, at_patch
from mmn_utils.interventions.concept import word_tokens
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models.base import Prompt
from mmn_utils.neurons.activation import activation_baseline
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption, generate
from mmn_utils.neurons.decoding import signs_of
from mmn_utils.neurons.methods import by_methods
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron, address
from mmn_utils.neurons.targets import Target, caption_targets, objective, teacher_forced
from mmn_utils.neurons.text import word_in

KEPT = 100  # neurons of each noun, by each method
ROWS_AT_ONCE = 64  # neurons that are ablated in one batch, each in its own row
_PROMPTS = 16  # pictures that stay embedded
Rows = list[list]


def _alone(question: Callable) -> Callable:
    """Let a method hold the system's lock."""

    @wraps(question)
    def asked(self, *args, **options):
        with self.lock:
            return question(self, *args, **options)

    return asked


class System:
    """A system and pictures to ask it about, by id; each is embedded and captioned once.

    ``opened`` returns a picture, upright RGB. Threads take turns: who holds ``lock`` has the
    system for itself, as each question does while it is answered.
    """

    def __init__(
        self, model, opened: Callable[[str], Image.Image], max_new_tokens: int = 20
    ) -> None:
        self.model, self.opened, self.max_new_tokens = model, opened, max_new_tokens
        self.lock = threading.RLock()
        self._prompts: OrderedDict[str, Prompt] = OrderedDict()
        self._captions: dict[str, Caption] = {}
        self._tops: dict[Target, dict[str, Rows]] = {}

    # --- a picture ----------------------------------------------------------------------

    @_alone
    def prompt(self, image: str) -> Prompt:
        """Embed a picture, or take what was embedded lately."""
        if image not in self._prompts:
            self._prompts[image] = self.model.prompt([self.opened(image)]).named([image])
            if len(self._prompts) > _PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(image)
        return self._prompts[image]

    @_alone
    def caption(self, image: str) -> Caption:
        """Caption a picture greedily, once."""
        if image not in self._captions:
            self._captions[image] = self.say(image)
        return self._captions[image]

    @_alone
    def say(self, image: str) -> Caption:
        """Caption a picture as the system is just now."""
        return generate(self.model, self.prompt(image), self.max_new_tokens, images=[image])[0]

    def captioned(self, image: str) -> bool:
        """Say whether a picture has been captioned."""
        return image in self._captions

    @_alone
    def targets(self, image: str) -> list[Target]:
        """List the nouns of a picture's caption as targets."""
        return caption_targets(self.model, image, self.caption(image))

    @_alone
    def target(self, image: str, noun: str) -> Target:
        """Make a target of a word: of the caption's nouns, of its other words, or of any.

        A word of the caption is scored where the caption says it, with the token that it
        begins with there. Any other is asked for in the place of the caption's first noun:
        its first token, as behind a blank, at the step that predicts that noun, or at the
        first step where the caption has none. ValueError for no word, and one without a token.
        """
        if not noun or not noun.strip():
            raise ValueError("no noun is chosen; take one of the caption, or type a word")
        nouns = self.targets(image)
        for target in nouns:
            if target.noun.casefold() == noun.strip().casefold():
                return target
        caption = self.caption(image)
        said = word_in(caption, noun, self.model)
        if said is not None:
            return Target.of(image, said, caption)
        prefix = nouns[0].prefix if nouns else ()
        return Target(image, noun.strip(), word_tokens(self.model, noun)[0], prefix)

    @_alone
    def behind(self, target: Target) -> str:
        """Give the words of the caption that stand before a target."""
        decode = self.model.tokenizer.decode
        return decode(list(target.prefix), clean_up_tokenization_spaces=False).strip()

    @_alone
    def probability(self, target: Target) -> float:
        """Return the probability of a target's token at its step, as the system is just now."""
        prompt = teacher_forced(self.model, self.prompt(target.image), [target.prefix])
        logits, _ = self.model.forward(prompt)
        return _finite(objective(logits, [target], "probability"), "probabilities").item()

    @_alone
    def scored_token(self, target: Target) -> tuple[str, bool]:
        """Give a target's token as text, and whether it is all of the target's word."""
        text = self.model.token_strings[target.token]
        return text, text.strip().casefold() == target.noun.casefold()

    # --- its neurons --------------------------------------------------------------------

    def scored(self, target: Target) -> bool:
        """Say whether a target's neurons have been scored."""
        return target in self._tops

    @_alone
    def top(self, target: Target) -> dict[str, Rows]:
        """Score a target's neurons by each method: rows of ``Views.top``, best first."""
        if target not in self._tops:
            found = by_methods(self.model, self.prompt(target.image), [target], k=KEPT)
            self._tops[target] = {name: self._rows(found[name]) for name in METHODS}
        return self._tops[target]

    @_alone
    def patch(self, image: str, target: Target | None, patch: int, k: int) -> tuple[str, Rows]:
        """Score neurons at one image token: the method's name and rows of ``Views.patch``.

        By attribution to the target, or by activation alone where there is none. ValueError
        for a system whose image tokens have no place, and for a patch that is none.
        """
        rows, columns = self.model.require_grid()
        if not 0 <= patch < rows * columns:
            raise ValueError(f"patch {patch}: the grid has {rows * columns}, counted from 0")
        prompt = self.prompt(image)
        at = [range(prompt.embeds.shape[1])[self.model.image_tokens.places][patch]]
        if target is None:
            nothing = [Target(image, "", 0, ())]
            table = activation_baseline(self.model, prompt, nothing, k=k, positions=at)
            return "activation", [at_patch(row) for row in self._rows(table)]
        table = attribution(self.model, prompt, [target], k=k, positions=at)
        return "attribution", [at_patch(row) for row in self._rows(table)]

    @_alone
    def maps(self, image: str, neurons: Sequence[Neuron]) -> dict[str, list[float]]:
        """Read activations on the image tokens: {address: rows x columns numbers}, row-major."""
        found = activation_maps(self.model, self.prompt(image), neurons)[0].flatten(1)
        names = (address(self.model, neuron) for neuron in neurons)
        return dict(zip(names, found.tolist(), strict=True))

    @_alone
    @torch.no_grad()
    def exact(self, target: Target, neurons: Sequence[Neuron]) -> dict[str, dict[str, float]]:
        """Ablate each neuron alone, each in its row of a batch: how the target's token changes."""
        rows = [[], *([neuron] for neuron in neurons)]
        prompt = self.prompt(target.image)
        found = sweep(self.model, prompt, target, rows, 0, batch_rows=ROWS_AT_ONCE)
        changes = {
            kind: (values[1:] - values[0]).tolist()
            for kind, values in (("probability", found.probability), ("logit", found.logit))
        }
        return {
            address(self.model, neuron): {kind: values[place] for kind, values in changes.items()}
            for place, neuron in enumerate(neurons)
        }

    def _rows(self, table: pd.DataFrame) -> Rows:
        placed = self.model.image_tokens.grid is not None
        columns = (table[name].tolist() for name in ("layer", "unit", "score", "patch"))
        signs = signs_of(table["activation"]).tolist()
        return [
            [address(self.model, Neuron(layer, unit)), score, patch if placed else -1, sign]
            for layer, unit, score, patch, sign in zip(*columns, signs, strict=True)
        ]


def _finite(values: torch.Tensor, what: str) -> torch.Tensor:
    """Return values that can be shown; ValueError where some are none."""
    if not torch.isfinite(values).all():
        raise ValueError(f"{what} are not finite; load the system in float32 or bfloat16")
    return values
