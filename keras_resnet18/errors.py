"""What goes wrong because of what was given, told apart from what goes wrong because of us."""


class InputError(ValueError):
    """Something that a person gave cannot be used.

    The message is one line: what was expected, what was received, what to do. The command line
    prints it as it stands; every other exception is a bug and keeps its traceback.
    """


class ExportError(InputError):
    """An exported file does not give the model's answers, so it was not written."""
