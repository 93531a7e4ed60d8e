"""The browser's questions answered live: from the atlas at once, from the system by computing.

Heat maps, scores and exact ablation are always those of the untouched system, whatever is
stacked on it; what a stack of interventions does is told by its outcome alone: caption and
noun before and after.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmn_utils.browser.atlas.build import SETTINGS
from mmn_utils.browser.atlas.cards import Noun
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.live.outcome import Stack
from mmn_utils.browser.live.own import OWN, Folder, OwnPictures
from mmn_utils.browser.live.system import System
from mmn_utils.browser.live.work import Job, watched
from mmn_utils.browser.pictures import LARGEST, jpeg_uri
from mmn_utils.browser.views import QUESTIONS, SHOWN, Answer, Views, pieces
from mmn_utils.datasets import Photograph, load_dataset
from mmn_utils.datasets.base import read_image
from mmn_utils.models import load_model
from mmn_utils.neurons.table import Neuron, neuron_at
from mmn_utils.neurons.targets import Target
from mmn_utils.presets import ROOT, Preset, resolve

LIVE = ("maps", "patch", "own", "word", "exact", "undo", "remove")  # what the atlas cannot answer


class Session:
    """A system and its atlas, open for questions and interventions.

    ``photographs`` are the atlas's; without them their files are read where the atlas has
    them. ``model`` None: the atlas alone is asked, and what needs the system raises with
    ``missing``, which says how to get it. ValueError for an atlas of another system. Any
    thread may ask; those that run the system take turns, others (``quick``) do not wait.
    """

    def __init__(
        self,
        model,
        atlas: Atlas,
        photographs: Sequence[Photograph] | None = None,
        *,
        max_new_tokens: int = 20,
        missing: str = "",
    ) -> None:
        if model is not None:
            atlas.check_model(model)
        self.model, self.atlas = model, atlas
        self.views = Views(atlas) if model is None else Views(atlas, seen=model.seen)
        self.missing = missing or (
            f"this needs {atlas.facts.model} itself, and only its atlas is open; open both with "
            f"Browser({atlas.facts.run!r})"
        )
        self.pictures = OwnPictures()
        self._photographs = {one.id: one for one in photographs or ()}
        self._system = None if model is None else System(model, self.open, max_new_tokens)
        self._stack = None if model is None else Stack(self._system, self._target)
        self._nouns: dict[str, dict[str, Noun]] = {}  # of the atlas's pictures
        self._shown: dict[str, Answer] = {}  # a person's own pictures
        self._words: dict[tuple[str, str], Answer] = {}  # scored here

    @property
    def system(self) -> System:
        """The system to ask; ValueError where it is not loaded, with what to do."""
        if self._system is None:
            raise ValueError(self.missing)
        return self._system

    @property
    def stack(self) -> Stack:
        """The interventions; ValueError where the system is not loaded, with what to do."""
        if self._stack is None:
            raise ValueError(self.missing)
        return self._stack

    @property
    def state(self) -> Answer:
        """The stack and its outcome as the front takes them."""
        return {"stack": [], "outcome": None} if self._stack is None else self._stack.state

    def open(self, image: str) -> Image.Image:
        """Open a picture, upright RGB; ValueError or FileNotFoundError where there is none."""
        if image.startswith(OWN):
            return self.pictures.open(image)
        if image in self._photographs:
            return self._photographs[image].open()
        found = self.atlas.image(image)
        annotated = found.masks[0].size if found.masks else None
        return read_image(ROOT / found.file, annotated)

    # --- questions ----------------------------------------------------------------------

    def ask(self, name: str, args: Mapping[str, Any], job: Job | None = None) -> Answer:
        """Answer a question by its name; ValueError says what is wrong with it.

        A ``job`` counts the system's passes and can stop them: then ``Cancelled``.
        """
        known = (*QUESTIONS, *LIVE)
        if name not in known:
            raise ValueError(f"no question {name!r}; known: {', '.join(known)}")
        answer = getattr(self, name, None) or getattr(self.views, name)
        try:
            inspect.signature(answer).bind(**args)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from None
        alone = nullcontext() if job is None else self.system.lock  # or it would watch others
        with alone, torch.no_grad(), watched(self.model, job):
            return answer(**args)

    def quick(self, name: str, args: Mapping[str, Any]) -> bool:
        """Say whether a question is a look-up, for which the system does not run."""
        image, noun = str(args.get("image")), str(args.get("noun"))
        if self._system is None or "image" not in args:
            return self._system is None or name not in LIVE
        if name == "picture":
            return not image.startswith(OWN) or image in self._shown
        if name in ("top", "word"):
            return self._of_atlas(image, noun) is not None or (image, noun) in self._words
        return name not in LIVE

    def facts(self) -> Answer:
        """Say what system this is, and list its pictures, a person's own before the others."""
        facts = self.views.facts()
        own = [
            {"id": image, "caption": self._shown.get(image, {}).get("caption", "")}
            for image in self.pictures.ids
        ]
        return {
            **facts,
            "live": self._system is not None,
            "pictures": [*own, *facts["pictures"]],
        }

    def thumbs(self, images: Sequence[str]) -> Answer:
        """Give a small copy of each picture as a data URI: {id: URL}."""
        own = {image: self.pictures.thumb(image) for image in images if _own(image)}
        return {**self.views.thumbs([image for image in images if not _own(image)]), **own}

    def picture(self, image: str) -> Answer:
        """Show a picture with its caption and nouns; one's own is captioned when first shown."""
        if not _own(image):
            return self.views.picture(image)
        if image not in self._shown:
            self._shown[image] = self._picture(image)
        return self._shown[image]

    def own(self, name: str, buffer: bytes) -> Answer:
        """Take the bytes of a picture file: its ``picture``; its first noun is scored, too.

        ValueError for bytes that are no picture, and then nothing is kept.
        """
        self.system  # noqa: B018  says what is missing
        image = self.pictures.add(bytes(buffer), name)
        shown = self.picture(image)
        if shown["nouns"]:
            self.word(image, shown["nouns"][0])
        return shown

    def folder(self, path: str, job: Job | None = None) -> Folder:
        """Take the readable pictures of a folder; each is captioned when it is first shown.

        Errors as ``OwnPictures.add_folder``; a ``job`` counts the files.
        """

        def step(_done: int, total: int) -> None:
            job.total = total
            job.step()

        self.system  # noqa: B018  says what is missing
        return self.pictures.add_folder(path, *([] if job is None else [step]))

    def top(self, image: str, noun: str, k: int = SHOWN) -> Answer:
        """List a noun's top neurons by each method: the atlas's, or else computed now."""
        if self._of_atlas(image, noun) is not None:
            return self.views.top(image, noun, k)
        return self.word(image, noun, k)

    def word(self, image: str, noun: str, k: int = SHOWN) -> Answer:
        """Score neurons for any word; what ``top`` gives, and what was scored.

        That is ``token``, ``whole`` where it is all of the word, and ``behind``, the words of
        the caption before it; see ``System.target``.
        """
        key = (image, noun)
        if key not in self._words:
            target = self._target(image, noun)
            rows, behind = self.system.top(target), self.system.behind(target)
            token, whole = self.system.scored_token(target)
            scored = {"token": token, "whole": whole, "behind": behind}
            self._words[key] = {"rows": rows, **scored}
        known = self._words[key]
        rows = {name: some[:k] for name, some in known["rows"].items()}
        named = [row[0] for some in rows.values() for row in some]
        return {**known, "rows": rows, "about": self.views.about(named)}

    def patch(self, image: str, noun: str | None, patch: int, k: int = SHOWN) -> Answer:
        """List the neurons that wrote of the noun at a patch, or without one were active there."""
        target = self._target(image, noun) if noun else None
        by, rows = self.system.patch(image, target, patch, k)
        return {"by": by, "rows": rows, "about": self.views.about([row[0] for row in rows])}

    def maps(self, image: str, neurons: Sequence[str]) -> Answer:
        """Read the heat maps of neurons on a picture: {address: numbers}, row-major."""
        return self.system.maps(image, self._neurons(neurons))

    def exact(self, image: str, noun: str, neurons: Sequence[str]) -> Answer:
        """Ablate each neuron alone: {address: changes of the noun's probability and logit}."""
        target = self._target(image, noun)
        return self.system.exact(target, self._neurons(neurons))

    def undo(self) -> Answer:
        """Make the stack what it was before its last change; ValueError for none."""
        self.stack.undo()
        return {}

    def remove(self, id: int) -> Answer:
        """Take one intervention off the stack, whatever lies on it; ValueError for none."""
        self.stack.remove(id)
        return {}

    # --- inside -------------------------------------------------------------------------

    def _picture(self, image: str) -> Answer:
        system, whole = self.system, self.open(image)
        opened = whole.crop(self.model.seen(whole.size))  # heat maps lie over no more
        caption, nouns = system.caption(image).text, [t.noun for t in system.targets(image)]
        return {
            "id": image,
            "src": jpeg_uri(opened, LARGEST),
            "width": opened.width,
            "height": opened.height,
            "caption": caption,
            "pieces": pieces(caption, nouns),
            "nouns": nouns,
            "human": [],
            "masks": [],
            "own": True,
        }

    def _neurons(self, addresses: Sequence[str]) -> list[Neuron]:
        return [neuron_at(self.atlas.facts, one) for one in addresses]

    def _target(self, image: str, noun: str) -> Target:
        """Make a target; ValueError where the system no longer says the atlas's noun there."""
        target, there = self.system.target(image, noun), self._of_atlas(image, noun)
        if there is not None and (there.token, there.step) != (target.token, len(target.prefix)):
            raise ValueError(
                f"of {image!r} the system now says {self.system.caption(image).text!r}, which is "
                f"not the atlas's; make it again: make atlas PRESET={self.atlas.facts.run}"
            )
        return target

    def _of_atlas(self, image: str, noun: str) -> Noun | None:
        """Find a noun of the caption that the atlas has; None for a word that it does not."""
        if _own(image):
            return None
        if image not in self._nouns:
            found = self.atlas.image(image).nouns
            self._nouns[image] = {one.noun.casefold(): one for one in found}
        return self._nouns[image].get((noun or "").strip().casefold())


def of_preset(preset: str | Path | Preset) -> Session:
    """Open the atlas of a preset's run and its system.

    Without weights or photographs the atlas alone is open, and the session says what is
    missing. FileNotFoundError, with the command that makes it, where there is no atlas.
    """
    asked, model, photographs, missing = resolve(SETTINGS, preset), None, None, ""
    atlas = Atlas.open(asked["run"])
    try:
        data = load_dataset(asked["dataset"], asked["data_root"] or None)
        photographs = data.sample(asked["n_images"], asked["seed"])
        model = load_model(asked["model"], device=asked["device"], dtype=asked["dtype"])
    except FileNotFoundError as error:
        missing = str(error)
    most = asked["max_new_tokens"]
    return Session(model, atlas, photographs, max_new_tokens=most, missing=missing)


def _own(image: str) -> bool:
    return image.startswith(OWN)
