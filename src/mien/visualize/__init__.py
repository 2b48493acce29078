"""Pictures of predictions: annotated and anonymized photos, contact sheets, attention maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.visualize.anonymization import anonymize
    from mien.visualize.contact_sheet import ContactSheet
    from mien.visualize.drawing import annotate

__all__ = ["ContactSheet", "annotate", "anonymize"]

__getattr__ = attach(
    __name__, {"anonymize": "anonymization", "ContactSheet": "contact_sheet", "annotate": "drawing"}
)
