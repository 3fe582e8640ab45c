"""The mutants of one channel in their order, each judged by what the channel makes of it in this process."""

from collections.abc import Iterator

from bench.fuzz.corpus import Corpus, Kind
from bench.fuzz.handling import Finding, Handling
from bench.fuzz.message import Mutant
from bench.fuzz.mutator import Mutator
from channels.contract import Channel

FINDINGS_MAX = 20  # then the run has failed thoroughly enough
AUDIT = -1  # the number of a finding that no mutant can be blamed for


class Judged:
    """One channel's mutants, each handed to the channel itself before it is sent."""

    def __init__(self, kind: Kind, channel: Channel, seed: int) -> None:
        self.handling = Handling(channel)
        self.findings: list[Finding] = []
        self.neutral = 0
        self.drawn = 0
        self._kind = kind
        self._seed = seed
        self._mutator = Mutator(kind, seed)
        self._corpus: Corpus

    def use(self, corpus: Corpus) -> None:
        """Mutate these from now on."""
        self.handling.trust(corpus.genuine)
        self._corpus = corpus

    def mutants(self, count: int) -> Iterator[Mutant]:
        """What the channel took rightly, and is worth sending."""
        while self.drawn < count and len(self.findings) < FINDINGS_MAX:
            mutant = self._mutator.mutant(self.drawn, self._corpus)
            self.drawn += 1
            complaint = self.handling.complaint(mutant)
            if complaint is None:
                yield mutant
            elif complaint.belief and self._mutator.neutral(mutant, self._corpus):
                self.neutral += 1
            else:
                self.complain(mutant, complaint.what)

    def complain(self, mutant: Mutant, what: str) -> None:
        """Note what is wrong."""
        wire = mutant.message.wire()
        self.findings.append(Finding(self._kind.channel, self._seed, mutant.number, mutant.mutation, what, wire))

    def blame(self, what: str) -> None:
        """Note what is wrong although no single mutant is known to have done it."""
        self.findings.append(Finding(self._kind.channel, self._seed, AUDIT, "all of them", what, b""))
