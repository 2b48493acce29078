"""Pictures of predictions: annotated and anonymized photos, contact sheets, attention maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.visualize.annotate import annotate
    from mien.visualize.anonymize import anonymize
    from mien.visualize.contact_sheet import ContactSheet

__all__ = ["ContactSheet", "annotate", "anonymize"]

__getattr__ = attach(__name__, {"annotate": "annotate", "anonymize": "anonymize", "ContactSheet": "contact_sheet"})
