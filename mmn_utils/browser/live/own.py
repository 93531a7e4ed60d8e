"""A person's own pictures: dropped as bytes, or a folder of files, each checked when it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mmn_utils.browser.pictures import THUMB, jpeg_uri
from mmn_utils.datasets.pictures import read_bytes, read_image

OWN = "own:"  # how the id of a person's own picture begins


@dataclass(frozen=True)
class Folder:
    """What a folder held: ids of its pictures, and why other files are none, by name."""

    pictures: tuple[str, ...]
    unreadable: dict[str, str] = field(default_factory=dict)


class OwnPictures:
    """Pictures by id, ``own:`` and the file's name; ``ids`` has those that came last first.

    Bytes are held as they came and files stay where they are; both are decoded when asked for.
    """

    def __init__(self) -> None:
        self._held: dict[str, bytes | Path] = {}
        self._thumbs: dict[str, str] = {}
        self.ids: list[str] = []

    def __contains__(self, image: str) -> bool:
        """Say whether an id is that of a picture here."""
        return image in self._held

    def add(self, content: bytes, name: str) -> str:
        """Take the bytes of a picture file and return its id; ValueError where they are none."""
        return self._keep([(name, content, _small(read_bytes(content, name)))])[0]

    def add_folder(
        self, path: str | Path, step: Callable[[int, int], None] = lambda done, total: None
    ) -> Folder:
        """Take every readable picture of a folder, by name; files that are none are named.

        Hidden files and folders inside are passed over. ``step`` is told of each file before
        it is read; where it raises, nothing is kept. ValueError where there is no such folder,
        and where no file is a picture.
        """
        folder = Path(path).expanduser()
        if not str(path).strip():
            raise ValueError("no folder is named; give the path of a folder of pictures")
        if not folder.is_dir():
            where = "" if folder.is_absolute() else f" in {Path.cwd()}"
            raise ValueError(
                f"no folder at {str(path)!r}{where}; give the path of a folder of pictures"
            )
        files = [f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith(".")]
        found, unreadable = [], {}
        for place, file in enumerate(files):
            step(place, len(files))
            try:
                image = read_bytes(file.read_bytes(), file.name)
                found.append((file.name, file.resolve(), _small(image)))
            except (ValueError, OSError) as error:
                unreadable[_text(file.name)] = _text(str(error))
        if not files:
            raise ValueError(f"{folder} holds no files; give the path of a folder of pictures")
        if not found:
            raise ValueError(f"none of the {len(files)} files in {folder} is a picture")
        return Folder(tuple(self._keep(found)), unreadable)

    def open(self, image: str) -> Image.Image:
        """Return a picture, upright RGB; ValueError for an id that is none."""
        held = self._held.get(image)
        if held is None:
            raise ValueError(f"no picture {image!r}; drop its file once more")
        if isinstance(held, Path):
            return read_image(held)
        return read_bytes(held, image.removeprefix(OWN))

    def thumb(self, image: str) -> str:
        """Return a picture's small copy as a data URI, made when it came; errors as ``open``."""
        if image not in self._thumbs:
            self.open(image)
        return self._thumbs[image]

    def _keep(self, some: Sequence[tuple[str, bytes | Path, str]]) -> list[str]:
        """Take names, contents and small copies; return their ids, which are now the first."""
        kept = []
        for name, held, thumb in some:
            image = self._id(name, held)
            self._held[image], self._thumbs[image] = held, thumb
            kept.append(image)
        self.ids = list(dict.fromkeys([*kept, *self.ids]))
        return kept

    def _id(self, name: str, held: bytes | Path) -> str:
        """Return the id of what is held already, or a new one that no other picture has."""
        count, first = 1, f"{OWN}{_text(name)}"
        image = first
        while image in self._held and self._held[image] != held:
            count += 1
            image = f"{first} ({count})"
        return image


def _small(image: Image.Image) -> str:
    return jpeg_uri(image, THUMB)


def _text(name: str) -> str:
    """Return a file's name as text that can be sent: bytes that are none become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")
