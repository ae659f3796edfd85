"""From a prompt to an answer: images, batches, scores, the mixture, adaptive k."""
