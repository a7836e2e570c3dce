"""The errors that are shown to a person without a traceback: `cli.main` is the one door they leave by."""


class AlexNetError(Exception):
    """A mistake or condition the user can mend: what is wrong, and in `hint` what to do about it.

    `exit_code` is 1 for a mistake; a run stopped by a signal after saving uses 130 (SIGINT) or 143 (SIGTERM).
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class LostProcess(AlexNetError):
    """Another process of the job is gone. Its own error, if it left one, is the one to show."""


class Diverged(AlexNetError):
    """The loss, the gradients or the weights of a training are no numbers any more."""


REPORTS = "ALEXNET_REPORTS"
"""Environment variable of the ranks of one job: the folder in which each leaves its error for their parent."""
