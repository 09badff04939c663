"""End a sentence once, where texts are joined: a reason may end with a question."""


def ended(text: str) -> str:
    """Return a text that ends as a sentence does: with a full stop, unless it ends with a sign of its own."""
    bare = text.rstrip()
    return bare if bare.endswith((".", "?", "!")) else f"{bare}."
