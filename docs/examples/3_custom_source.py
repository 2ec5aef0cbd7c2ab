"""A source of your own: the images of a zip archive. docs/extending.md has one that is not made of files."""

import tempfile
import zipfile
from pathlib import Path

from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.sources import SOURCES, SourceKind
from recon.sources.images import ImageSource


class Zip(ImageSource):
    """The images of an archive, in the order of their names."""

    def __init__(self, spec, options, images_folder):
        self.unpacked = tempfile.TemporaryDirectory()
        with zipfile.ZipFile(spec) as archive:
            archive.extractall(self.unpacked.name)
        paths = sorted(path for path in Path(self.unpacked.name).rglob("*") if path.is_file())
        super().__init__("zip", spec, paths, options, images_folder)


SOURCES["zip"] = SourceKind(lambda spec: spec.endswith(".zip"), Zip)

Path("out").mkdir(exist_ok=True)
with zipfile.ZipFile("out/photos.zip", "w") as archive:
    for path in sorted(Path("data/sample/images").glob("*.jpg")):
        archive.write(path, path.name)
report = reconstruct("out/photos.zip", Path("out/from-zip"), RunSettings(depth="classical", overwrite=True))
print(report.frames_placed, "of", report.frames_read, "frames placed")
