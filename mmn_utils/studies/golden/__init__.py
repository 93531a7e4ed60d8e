"""The papers' printed lists, decoded again from the published weights.

    python -m mmn_utils.studies.golden --preset limber

Both papers leave open what "decode" and "BERTScore" mean to the last switch. Here every reading
is tried on what they print, and the command says which of them gives how much of it back.
"""
