"""How long a batch of so many tokens takes on this machine, learnt while running."""

from __future__ import annotations

_NEWEST = 0.2  # weight of the newest observation


class Pace:
    """Seconds per token, one average for each power of two of batch size, because a batch has a fixed cost too.

    A size is estimated by the best rate of its own and of all smaller ones: scaling up from a smaller size errs on
    the slow side, and a size that was slow once for another reason would otherwise never be tried again.
    Written by one thread at a time; read by others, for whom a value that is one batch old is good enough.
    """

    def __init__(self) -> None:
        self._per_token: dict[int, float] = {}
        self.observed = 0  # batches; of the first ones, a part of the time is what a first batch pays for alone

    def observe(self, tokens: int, seconds: float) -> None:
        self.observed += 1
        size, newest = tokens.bit_length(), seconds / tokens
        known = self._per_token.get(size, newest)
        self._per_token[size] = known + _NEWEST * (newest - known)

    def seconds(self, tokens: int) -> float:
        """Estimated seconds of one batch; 0 while nothing is known."""
        known = dict(self._per_token)
        if not known:
            return 0.0
        rates = [rate for size, rate in known.items() if size <= tokens.bit_length()]
        return (min(rates) if rates else known[min(known)]) * tokens

    def budget(self, seconds: float, most: int) -> int:
        """The largest power of two of tokens, or one, two or three quarters more of it, at most `most`, whose batch is
        estimated to take at most `seconds`.

        Powers alone halve a batch, and cost 7 % of what a core can answer, whenever an estimate passes the limit.
        """
        tokens = 1
        while tokens * 2 <= most and self.seconds(tokens * 2) <= seconds:
            tokens *= 2
        sizes = (tokens * quarters // 4 for quarters in (7, 6, 5))
        return next((size for size in sizes if size <= most and self.seconds(size) <= seconds), tokens)

    def seconds_in_batches(self, tokens: int, longest: float, most: int) -> float:
        """Estimated seconds of so many tokens that wait: in batches as large as `budget` lets them be.

        By what batches of that size took lately, where there were any: the best of all smaller ones would be a promise.
        """
        if not tokens:
            return 0.0
        size = min(tokens, self.budget(longest, most))
        measured = self._per_token.get(max(1, size - 1).bit_length())  # full batches are a little smaller than `size`
        return tokens * (measured if measured is not None else self.seconds(size) / size)
