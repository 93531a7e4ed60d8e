"""The miniature's image encoder: a small BEiT, trained on pictures alone.

As in BEiT, patches are masked in blocks and the encoder predicts discrete codes of what is
hidden (``objective``, ``codes``). No label takes part in the training; a linear probe of the
categories is logged to watch it.

The scenes are as colourful as the world, the codes are those of the same scenes in their
objects' own colours: as one who colours a picture in, the encoder has to know a thing by
its shape to guess them.

Run ``python -m mmn_utils.miniature.vision``; it picks up where it stopped.
"""
