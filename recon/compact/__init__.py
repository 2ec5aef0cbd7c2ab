"""The project's own compact geometry network: posed views in, dense depth with calibrated confidence out."""
