"""The page of ``vlmig app``: ask, look at what each image says, and mix it otherwise."""
