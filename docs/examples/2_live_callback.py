"""Follow a reconstruction while it happens: every event calls a function. Live sources send the same events."""

from pathlib import Path

from recon.core.events import ChunkReconstructed, Finished, Notice, PosesCorrected
from recon.pipeline import reconstruct
from recon.settings import RunSettings


def told(event: object) -> None:
    """Called on the pipeline's thread, so that it must be quick."""
    match event:
        case ChunkReconstructed(submap=submap, frames=frames):
            print("chunk", submap.index, "has placed", len(frames), "frames")
        case PosesCorrected(frames=frames):
            print("the poses of", len(frames), "frames are corrected")
        case Notice(text=text):
            print("note:", text)
        case Finished(placed=placed, read=read):
            print("finished:", placed, "of", read)


settings = RunSettings(chunk=20, overlap=8, depth="classical", overwrite=True)
reconstruct("data/sample/images", Path("out/live-callback"), settings, listeners=[told])
