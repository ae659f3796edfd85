"""From what a user writes to token ids: chat templates, image tokens, conversations."""
