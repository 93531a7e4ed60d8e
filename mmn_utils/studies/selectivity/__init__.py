"""Selectivity: where units look and for what they fire (paper A, section 3.2 and S.4)."""
