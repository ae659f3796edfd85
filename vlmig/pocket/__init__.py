"""The pocket world: a complete stack small enough to ship, its training data and its tasks."""
