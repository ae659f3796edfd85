"""Other people's harnesses on this package's models; each is imported only where somebody asks for
it."""
