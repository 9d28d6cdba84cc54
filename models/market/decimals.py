"""The decimal text of a mantissa, apart from `fixed_point` so that readers need no compiler (0.3 s to import)."""

from __future__ import annotations


def decimal_text(mantissa: int, exponent: int) -> str:
    """Shortest plain decimal of `mantissa * 10**exponent`, such as `64000.5`; `fixed_point.mantissa()` inverts it."""
    if exponent >= 0:
        return str(mantissa * 10**exponent)
    sign, digits = ("-", str(-mantissa)) if mantissa < 0 else ("", str(mantissa))
    digits = digits.rjust(1 - exponent, "0")
    whole, fraction = digits[:exponent], digits[exponent:].rstrip("0")
    return sign + whole + ("." + fraction if fraction else "")
