"""What strangers wrote, made safe for an operator's terminal. Nodes choose their reasons, and anybody chooses a topic."""


def plain(text: str) -> str:
    """Return the text on one line, with escape sequences, line breaks and changes of direction written out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
