"""The live tracker: a pose for every captured frame, while the map lags behind."""
