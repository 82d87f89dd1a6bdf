"""Whether a run folder's files may leave the safe environment."""

from cardiotune.audit.export_check.folder import ASK, LEAVE, STAY, Judged, check_export

__all__ = ["ASK", "LEAVE", "STAY", "Judged", "check_export"]
