"""Write numbers of things as people read them: 1 node, 2 nodes."""


def counted(number: int, noun: str) -> str:
    """Return the number and the noun, which gets an s unless it is one."""
    return f"{number} {named(number, noun)}"


def named(number: int, noun: str) -> str:
    """Return the noun for so many things, where their number stands before it in another way."""
    return noun if number == 1 else f"{noun}s"


def verb(number: int, word: str) -> str:
    """Return the verb for so many things: 1 node serves, 2 nodes serve."""
    return f"{word}s" if number == 1 else word
