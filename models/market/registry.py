"""The instruments a process knows, numbered densely from 0 in the order they were met."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidInstrument
from models.market.instruments import INSTRUMENT_REF, Instrument, instrument_hash


class InstrumentRegistry:
    """Dense ids for instruments, and every way to find one.

    The three indexes are read directly (a dict lookup is what a record may cost) and written only by `add`.
    Ids never change and nothing is removed: about 600 bytes of memory an instrument.

    Attributes:
        instruments: definitions, by id.
        texts: `venue.market_type.SYMBOL`, by id.
        by_text: id of a text.
        by_hash: id of a text's 64-bit hash.
        by_parts: id of (venue, market type, symbol).
    """

    def __init__(self) -> None:
        self.instruments: list[Instrument] = []
        self.texts: list[str] = []
        self.by_text: dict[str, int] = {}
        self.by_hash: dict[int, int] = {}
        self.by_parts: dict[tuple[str, str, str], int] = {}
        self._refs = np.zeros(64, INSTRUMENT_REF)
        self._exponents = np.zeros((64, 2), np.int8)

    def __len__(self) -> int:
        return len(self.instruments)

    def __repr__(self) -> str:
        return f"InstrumentRegistry({len(self)} instruments)"

    @property
    def refs(self) -> NDArray[np.void]:
        """Hash and exponents by id, dtype INSTRUMENT_REF, shape (len(self),): a view, valid until the next `add`."""
        return self._refs[: len(self)]

    @property
    def exponents(self) -> NDArray[np.int8]:
        """Exponents of prices and sizes by id, shape (len(self), 2): a view, valid until the next `add`."""
        return self._exponents[: len(self)]

    def add(self, instrument: Instrument) -> int:
        """Id of this instrument; the first definition of a text stands, a later one changes nothing (rule 7).

        Raises:
            InvalidInstrument: another text has the same hash, so the wire cannot tell the two apart.
        """
        text = instrument.text
        known = self.by_text.get(text)
        if known is not None:
            return known
        name = instrument_hash(text)
        if name in self.by_hash:
            other = self.texts[self.by_hash[name]]
            raise InvalidInstrument(f"instrument {text!r} has the same hash as {other!r}; rename one", "bad_symbol")
        new = len(self)
        if new == len(self._refs):
            self._refs = np.concatenate([self._refs, np.zeros_like(self._refs)])
            self._exponents = np.concatenate([self._exponents, np.zeros_like(self._exponents)])
        self._exponents[new] = instrument.price_exp, instrument.size_exp
        self._refs["hash"][new] = name
        self._refs["price_exp"][new], self._refs["size_exp"][new] = self._exponents[new]
        self.instruments.append(instrument)
        self.texts.append(text)
        self.by_text[text] = self.by_hash[name] = new
        self.by_parts[instrument.venue, instrument.market_type, instrument.symbol] = new
        return new
