"""Why a conversion stops. All are of the one tree.

TollgateError
└── ConversionError
    ├── OriginalError       the checkpoint is damaged, incomplete, or not one that can be converted
    ├── DestinationError    the converted one cannot be written where it should be
    └── MismatchError       what was converted does not answer as the original does
"""

from __future__ import annotations

from tollgate.domain.errors import TollgateError


class ConversionError(TollgateError):
    """Nothing that looks finished is left behind."""


class OriginalError(ConversionError):
    """Says which file, what is wrong with it, and what to do."""


class DestinationError(ConversionError):
    """Says which folder, and what to do."""


class MismatchError(ConversionError):
    """Says what differs, and how much."""
