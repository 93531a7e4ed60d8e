"""Edits: what they are found on, tried on and do, over many photographs (paper B, 3.5 and 3.6)."""

from mmn_utils.studies.edits import findings, making, noise, outcomes, tables, trials

__all__ = ["findings", "making", "noise", "outcomes", "tables", "trials"]
