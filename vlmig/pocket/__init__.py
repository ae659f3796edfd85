"""The pocket world: a whole stack small enough to ship, with the recipe that made it and the tasks it can be held to."""
