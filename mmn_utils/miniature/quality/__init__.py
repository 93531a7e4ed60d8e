"""How good the miniature is: what it names, and whether the paper's effects show in it.

Every number comes from the analyses that the notebooks use, with a 95 % interval
over scenes.

``python -m mmn_utils.miniature.measured`` prints the table.
"""
