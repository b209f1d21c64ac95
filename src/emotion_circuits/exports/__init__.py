"""Results in the paths and shapes of other people's programs; nothing is computed, only written again."""

from emotion_circuits.exports.contract import File, PlanFile, Results, plan_file, plan_files
from emotion_circuits.exports.folder import Exported, Missing, Unfinished, Written, export_plan

__all__ = [
    "Exported",
    "File",
    "Missing",
    "PlanFile",
    "Results",
    "Unfinished",
    "Written",
    "export_plan",
    "plan_file",
    "plan_files",
]
