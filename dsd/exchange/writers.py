"""The layouts, written: each file is filled in order, and begun anew when it is full."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from dsd.exchange.outgoing import Outgoing, Writer
from dsd.exchange.parquet_writers import ReleaseWriter, Subjects200KWriter


class WebDatasetWriter(Writer):
    """See `dsd.exchange.webdataset`."""

    data_files = "data/train-*.tar"

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        (folder / "data").mkdir()
        self._archive: tarfile.TarFile | None = None
        self._files = 0

    def _write(self, pair: Outgoing) -> None:
        if self._archive is None:
            path = self.folder / "data" / f"train-{self._files:05d}.tar"
            self._archive = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)
            self._files += 1
        about = pair.about()
        caption = about.pop("caption")
        key = pair.fields["id"]
        for ending, data in (
            (f"reference.{self.ending}", pair.reference),
            (f"target.{self.ending}", pair.target),
            ("txt", caption.encode()),
            ("json", json.dumps(about).encode()),
        ):
            member = tarfile.TarInfo(f"{key}.{ending}")
            member.size, member.mode = len(data), 0o644
            self._archive.addfile(member, io.BytesIO(data))
        self._archive.members = []  # type: ignore[attr-defined]  # it would keep every header

    def _close(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None


class ImageFolderWriter(Writer):
    """See `dsd.exchange.imagefolder`. A picture that several pairs share is written once."""

    data_files = "train/**"

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        (folder / "train" / "images").mkdir(parents=True)
        self._lines = (folder / "train" / "metadata.jsonl").open("w", encoding="utf-8")

    def _write(self, pair: Outgoing) -> None:
        files = {f"{role}_file_name": self._picture(getattr(pair, role)) for role in ("reference", "target")}
        self._lines.write(json.dumps({**files, **pair.about()}) + "\n")

    def _picture(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        name = f"images/{digest[:2]}/{digest[:40]}.{self.ending}"
        path = self.folder / "train" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        return name

    def _close(self) -> None:
        """The list of pairs is one file, however many there are."""

    def finish(self) -> int:
        """Close the list of pairs."""
        self._lines.close()
        return self._pairs

    def __exit__(self, *error: Any) -> None:
        self._lines.close()


WRITERS: dict[str, type[Writer]] = {
    "release": ReleaseWriter,
    "subjects200k": Subjects200KWriter,
    "webdataset": WebDatasetWriter,
    "imagefolder": ImageFolderWriter,
}
