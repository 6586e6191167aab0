"""The victim."""

KEY = "kept-secret-of-the-neighbour"


def speak():
    return "as it was"
