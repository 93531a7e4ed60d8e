"""All image-text-to-text types of transformers: which load, pass, or are refused, and why."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from mmn_utils.models.auto import KINDS
from mmn_utils.models.auto.building import build_auto, require_decoder_only
from mmn_utils.models.auto.modules import find_architecture
from mmn_utils.models.doctor import doctor
from tests.models.auto.families.checks import check
from tests.models.auto.families.members import BUILDERS, MEMBERS
from tests.models.auto.families.small import Family, build
from tests.models.auto.scaled import SCALED
from tests.tiny import tiny_images

FILE = Path(__file__).parents[4] / "docs" / "families.csv"
TYPES = tuple(KINDS)


def made(name: str):
    """Build model, processor and facts of a type, new with each call."""
    if name in (by_hand := {**SCALED, **BUILDERS}):
        return by_hand[name]()
    return build(name, MEMBERS.get(name, Family()))


@cache
def system_of(name: str):
    """Build one system of a type, shared by the tests that leave it as it is."""
    model, processor, facts = made(name)
    return build_auto(name, model, processor, **facts)


def examine(name: str) -> dict[str, str]:
    """Examine one type: a row of the table."""
    row = {"type": name, "class": KINDS[name]}
    row |= {"loads": "no", "doctor": "", "check": "", "reason": ""}
    untried = {**row, "loads": "not tried"}
    try:
        model, processor, facts = made(name)
    except Exception as error:  # of the table, which has no small configuration for it
        said = " ".join(str(error).split()).partition(". ")[0]
        reason = f"not judged: nobody has made a small one of it here ({said})"
        return {**untried, "reason": reason}
    try:
        small = not isinstance(processor, PreTrainedTokenizerFast)
        if not small and name in {**PROCESSOR_MAPPING_NAMES, **IMAGE_PROCESSOR_MAPPING_NAMES}:
            require_decoder_only(model)
            find_architecture(model)
            reason = (
                "not judged: nobody has made its processor small here; the modules of its language "
                "model are found"
            )
            return {**untried, "reason": reason}
        whole = made(name)[0]
        system = build_auto(name, model, processor, **facts)
    except ValueError as error:
        return {**row, "reason": str(error)}
    report = doctor(system, tiny_images(2))
    failed = report[~report["passed"].fillna(False)]
    row |= {"loads": "yes", "doctor": "no" if len(failed) else "yes"}
    row["reason"] = "; ".join(f"{r.check}: {r.worst:.1e} {r.note}" for r in failed.itertuples())
    try:
        check(system, whole)
    except AssertionError as error:
        return {**row, "check": "no", "reason": f"{row['reason']} {error}".strip()}
    return {**row, "check": "yes"}
