"""The project's own compact geometry network: from a stream of frames to matches, poses, places and dense depth."""
