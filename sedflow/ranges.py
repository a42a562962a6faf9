"""Numbers with a range, choices and lists, for the annotations of settings: pages are checked against them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Objective = Literal["psds1+psds2", "psds1", "psds2", "collar_f1", "collar_f1_at_0.5"]  # of tuning


def each_once(name_of, complaint: str) -> AfterValidator:
    """A check of lists in which no two entries may have one name.

    Parameters
    ----------
    name_of : function of an entry
    complaint : str    what is wrong and what to do, with ``{0}`` for the name
    """

    def check(entries: list) -> list:
        names = [name_of(entry) for entry in entries]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(complaint.format(twice[0]))
        return entries

    return AfterValidator(check)
