"""Plain COLMAP for comparison: features, matching and incremental mapping with default options, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycolmap

from recon.core.types import Frame
from recon.exports.trajectory import Trajectory, write_trajectory
from recon.lab.benchmark.sets import Matching
from recon.sources import SourceOptions, open_source
from recon.sources.images import ImageSource

POSES = "poses.txt"
MODELS = "models.json"
SEQUENTIAL_OVERLAP = 20


def reconstruct_plainly(source: str, every: int, matching: Matching, out: Path) -> None:
    """Write ``poses.txt``, whose timestamps are frame indices, of the largest model, and the sizes of all models.

    ``models.json`` lists how many images each model holds, the largest first. Without a model no poses are written.
    """
    out.mkdir(parents=True)
    images, names = _images(source, every, out / "images")
    database = out / "database.db"
    pycolmap.extract_features(database, images, image_names=list(names))
    if matching == "sequential":
        pairing = pycolmap.SequentialPairingOptions(overlap=SEQUENTIAL_OVERLAP)
        pycolmap.match_sequential(database, pairing_options=pairing)
    else:
        pycolmap.match_exhaustive(database)
    models = pycolmap.incremental_mapping(database, images, out).values()
    sizes = sorted((model.num_reg_images() for model in models), reverse=True)
    (out / MODELS).write_text(json.dumps(sizes))
    if models:
        largest = max(models, key=lambda model: model.num_reg_images())
        write_trajectory(_trajectory(largest, names), out / POSES)


def _images(source: str, every: int, folder: Path) -> tuple[Path, dict[str, int]]:
    """The folder of the images and the frame index of every file to use; a video's frames are written there first."""
    opened = open_source(source, SourceOptions(every=every), folder)
    if isinstance(opened, ImageSource):
        return Path(source), {path.name: index for index, path in opened.selected}
    return folder, {frame.name: frame.index for frame in opened if isinstance(frame, Frame)}


def _trajectory(model: pycolmap.Reconstruction, names: dict[str, int]) -> Trajectory:
    images = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: names[image.name])
    poses = [np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]]) for image in images]
    return Trajectory(np.array([float(names[image.name]) for image in images]), np.array(poses))
