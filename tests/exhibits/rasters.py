"""How finely the pictures in a PDF are printed."""

from __future__ import annotations

from pathlib import Path

import pypdfium2
import pypdfium2.raw

MOST_DPI = 200


def raster_dpi(pdf: Path) -> list[float]:
    """Return the resolution of each picture in a PDF, in pixels per inch of paper."""
    with pypdfium2.PdfDocument(pdf) as document:
        return [
            max(told.horizontal_dpi, told.vertical_dpi)
            for page in document
            for picture in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])
            for told in [picture.get_metadata()]
        ]
