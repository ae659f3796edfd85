"""The model: projector, fusion, mixture, checkpoint."""
