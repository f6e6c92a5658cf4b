"""Numbers that options take."""

from __future__ import annotations

import math
from typing import Any

import click


class Within(click.FloatRange):
    """A number from one to another; unlike with ``FloatRange``, NaN is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number.

        Raises:
            click.BadParameter: It is another or none.
        """
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number
