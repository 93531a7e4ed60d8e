"""Exhibits: the papers' figures and tables, how they are drawn, saved, judged and shown."""
