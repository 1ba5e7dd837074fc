"""What the page says when there is no pair to show. The script finds these words in the page, by their key."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["WORDS", "Words"]


class Words(NamedTuple):
    """A heading and a sentence. `again`: there is a button that looks for the next pair."""

    heading: str
    text: str
    again: bool = False


WORDS: Final[dict[str, Words]] = {
    "empty": Words(
        "Nothing waits for you just now",
        "All pairs are answered, or with other people. New ones keep coming in.",
    ),
    "paused": Words("A short break", "Whoever runs this has paused the work. It goes on later."),
    "rater_paused": Words(
        "Your work is paused",
        "Some of your answers to pairs with a known answer differed from what was expected. "
        "What you chose so far is kept. If you think this is a mistake, write to whoever invited you.",
    ),
    "too_many_leases": Words(
        "Your pairs are open elsewhere",
        "You have this page open in another window. Go on there, or wait until those pairs are free again.",
    ),
    "done": Words("That is all. Thank you!", "You have made all the choices that you were asked for."),
    "expired": Words(
        "This pair went to someone else",
        "It was before you for a while without a choice. Nothing is lost: there is another one for you.",
        again=True,
    ),
    "offline": Words(
        "The network is gone",
        "This page tries again by itself. What you chose is kept here until it is saved; please leave the page open.",
    ),
    "signed_out": Words(
        "Your invite does not hold any more", "Open your link again, or ask whoever invited you for another."
    ),
}
