"""Bits per byte, sliding windows, test-time training, the audit."""

from golf.scoring.audit import audit
from golf.scoring.protocol import AuditReport, Event, Finding, Scorer

__all__ = ["AuditReport", "Event", "Finding", "Scorer", "audit"]
