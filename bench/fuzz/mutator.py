"""The mutant of a number: the same seed, number and corpus make the same mutant, whatever was made before."""

from itertools import accumulate
from random import Random

from bench.fuzz.bytewise import EDITS, in_body
from bench.fuzz.corpus import Corpus, Kind
from bench.fuzz.message import Message, Mutant, Voucher

FORGED_SHARE = 0.15  # of mutants: crafted messages, a third of them with an edit on top
ODD_SHARE = 0.01  # each takes what the platform signs to an order, and to Postgres
TWICE_SHARE = 0.15
SEEDS = 1 << 40  # numbers of one seed


class Mutator:
    """Makes one channel's mutants."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self._kind = kind
        self._seed = seed * SEEDS
        self._dice = Random()
        self._weights = list(accumulate(weight for weight, _, _ in kind.mutations))

    def mutant(self, number: int, corpus: Corpus) -> Mutant:
        """The mutant of this number."""
        dice = self._dice
        dice.seed(self._seed + number)
        drawn = dice.random()
        if drawn < ODD_SHARE:
            odd = dice.choice(corpus.odd)
            return Mutant(number, odd.mutation, odd.message, odd.voucher)
        if drawn < ODD_SHARE + FORGED_SHARE:
            forged = dice.choice(corpus.forged)
            if dice.random() < 2 / 3:
                return Mutant(number, forged.mutation, forged.message)
            return self._mutated(number, forged.message, corpus, f"{forged.mutation}, ")
        return self._mutated(number, dice.choice(corpus.genuine), corpus, "")

    def neutral(self, mutant: Mutant, corpus: Corpus) -> bool:
        """Whether it says just what a genuine message says, and is rightly believed."""
        return mutant.voucher is Voucher.NOBODY and self._kind.meaning(mutant.message) in corpus.meanings

    def _mutated(self, number: int, message: Message, corpus: Corpus, before: str) -> Mutant:
        dice = self._dice
        [(_, name, mutation)] = dice.choices(self._kind.mutations, cum_weights=self._weights)
        message = mutation(dice, message, corpus.genuine)
        if dice.random() < TWICE_SHARE:
            return Mutant(number, f"{before}{name}, edited", in_body(dice.choice(EDITS))(dice, message, ()))
        return Mutant(number, before + name, message)
