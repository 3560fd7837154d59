"""The formats of JSON schemas' strings, as regular expressions.

The sources are RFC 3339 (dates and times), RFC 9562 (UUIDs), RFC 4291 and RFC 2673
(addresses), RFC 1123 (names of hosts), RFC 5321 (mail) and RFC 3986 (URIs).  Where one
has many forms of the same value, the usual ones are written.
"""

from __future__ import annotations

from typing import Final

# Of the years 0000 to 9999; the year 0 isn't one of Python's.
_LEAP: Final = (
    r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
)
_YEAR: Final = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE: Final = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP}-02-29)"
)
_CLOCK: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME: Final = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_CLOCK})"
_BYTE: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4: Final = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_GROUP: Final = r"[0-9a-fA-F]{1,4}"
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL}){{0,9}}"
_ATOM: Final = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,30}"
_HEX: Final = r"[0-9a-fA-F]"
_ESCAPED: Final = rf"%{_HEX}{_HEX}"
_SEGMENT: Final = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|{_ESCAPED})"


def _ipv6() -> str:
    """Returns the forms of an IPv6 address with at most one run of groups left out."""
    forms = [rf"(?:{_GROUP}:){{7}}{_GROUP}"]
    for before in range(7):
        left = rf"{_GROUP}(?::{_GROUP}){{0,{before - 1}}}" if before else ""
        after = 7 - before
        right = rf"(?:{_GROUP}(?::{_GROUP}){{0,{after - 1}}})?"
        # Exactly so many groups stand before the gap, so that no form is there twice.
        left = rf"{_GROUP}(?::{_GROUP}){{{before - 1}}}" if before else ""
        forms.append(f"{left}::{right}")
    forms.append(rf"{_GROUP}(?::{_GROUP}){{6}}::")
    return f"(?:{'|'.join(forms)})"


FORMATS: Final = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    # Of ISO 8601, as RFC 3339 gives them: weeks, or days and parts of a day.
    "duration": r"P(?:[0-9]{1,6}W|(?:[0-9]{1,6}Y(?:[0-9]{1,6}M(?:[0-9]{1,6}D)?)?"
    r"|[0-9]{1,6}M(?:[0-9]{1,6}D)?|[0-9]{1,6}D)(?:T(?:[0-9]{1,6}H(?:[0-9]{1,6}M"
    r"(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|[0-9]{1,6}S))?"
    r"|T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?"
    r"|[0-9]{1,6}S))",
    "uuid": rf"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "email": rf"{_ATOM}(?:\.{_ATOM}){{0,3}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _ipv6(),
    "uri": rf"[a-zA-Z][a-zA-Z0-9+.-]{{0,19}}:(?://(?:{_HOST}|{_IPV4})(?::[0-9]{{1,5}})?"
    rf"(?:/{_SEGMENT}*)*|{_SEGMENT}+(?:/{_SEGMENT}*)*)"
    rf"(?:\?(?:{_SEGMENT}|[/?])*)?(?:#(?:{_SEGMENT}|[/?])*)?",
}
"""Expressions by the formats' names, each of a whole string."""
