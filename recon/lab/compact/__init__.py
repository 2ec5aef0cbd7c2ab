"""The project's own compact geometry network: a stream of frames in; matches, poses, places and dense depth out."""
