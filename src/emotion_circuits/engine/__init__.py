"""The only place that touches hooks: capture, interventions, decoding, scoring and the family contract."""

from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.chunks import plan_chunks, scored_at_once
from emotion_circuits.engine.decode import BASELINE, Row
from emotion_circuits.engine.generation import Generation, generate, generate_rows
from emotion_circuits.engine.interventions import (
    add,
    mean_ablation,
    project_out,
    resample_ablation,
    scale,
    swap,
    zero,
)
from emotion_circuits.engine.sampling import Sampling
from emotion_circuits.engine.score import Metric, kl_from_baseline, log_sum_exp_difference, score, score_rows
from emotion_circuits.engine.verify import Check, verify_family

__all__ = [
    "BASELINE",
    "Check",
    "Generation",
    "Metric",
    "Row",
    "Sampling",
    "add",
    "capture",
    "generate",
    "generate_rows",
    "kl_from_baseline",
    "log_sum_exp_difference",
    "mean_ablation",
    "plan_chunks",
    "project_out",
    "resample_ablation",
    "scale",
    "score",
    "score_rows",
    "scored_at_once",
    "swap",
    "verify_family",
    "zero",
]
