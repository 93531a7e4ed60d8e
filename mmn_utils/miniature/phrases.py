"""The captions of the miniature's world, for pictures and for text alike.

The language model reads them in its corpus, the data set carries them as the
five human captions of a scene, and the projection is trained to bring them out.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmn_utils.miniature.world import Concept

#: Forms by number of objects; {0} is the largest object, {b} the background.
#: The first form is the plainest, and the one that is most often used.
FORMS = {
    1: (
        "{a0} {0} on the {b}",
        "one {0} on the {b}",
        "the {0}, seen on the {b}",
        "a single {0}, alone on the {b}",
        "{a0} {0} with {b} around",
    ),
    2: (
        "{a0} {0} and {a1} {1} on the {b}",
        "one {0} next to {a1} {1} on the {b}",
        "the {0} with {a1} {1}, seen on the {b}",
        "{a0} {0} near the {1}, both on the {b}",
        "{a0} {0} beside {a1} {1}, with {b} around",
    ),
    3: (
        "{a0} {0}, {a1} {1} and {a2} {2} on the {b}",
        "one {0} next to {a1} {1} and {a2} {2} on the {b}",
        "the {0} with {a1} {1} and {a2} {2}, seen on the {b}",
        "{a0} {0} near the {1} and the {2}, all on the {b}",
        "{a0} {0} beside {a1} {1} and {a2} {2}, with {b} around",
    ),
}


def captions(concepts: Sequence[Concept], background: str) -> tuple[str, ...]:
    """Return the five captions of a scene, the plainest first.

    ``concepts`` are its one to three objects, the largest first; each caption
    is a noun phrase that continues "A picture of", without a full stop.
    """
    words = {f"a{i}": concept.article for i, concept in enumerate(concepts)}
    names = [concept.name for concept in concepts]
    return tuple(form.format(*names, b=background, **words) for form in FORMS[len(concepts)])
