"""Numbers with a range and a list of choices, for the annotations of settings: pages are checked against them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Objective = Literal["psds1+psds2", "psds1", "psds2", "collar_f1", "collar_f1_at_0.5"]  # of tuning
