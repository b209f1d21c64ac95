"""Transfer through a map that is given: another rung of the ladder, a leave-one-emotion-out map, or the way back."""

from __future__ import annotations

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.alignment_map import AlignmentMap
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.native_probe import native_probe
from emotion_circuits.representations.sharing_arrays import EmotionArrays, Texts, check_texts
from emotion_circuits.representations.transfer import direction_weights, transfer_matrix


def pushed_transfer(fitted: AlignmentMap, source: EmotionArrays, target: EmotionArrays) -> FloatArray:
    """T[i, j] of the source's centred directions pushed through ``fitted`` (source → target).

    Scores are inner products in the target's standard coordinates, as in the sharing test.
    """
    texts = check_texts(source, target)
    directions = direction_weights(texts.source_fit, len(texts.emotions)) @ texts.source_fit.x
    pushed = fitted.push(directions) / fitted.target.sd
    scores = pushed @ fitted.target.standardise(texts.target_test.x).T
    return transfer_matrix(scores, texts.target_test.codes, len(texts.emotions))


def pulled_transfer(back: AlignmentMap, source: EmotionArrays, target: EmotionArrays) -> FloatArray:
    """T[i, j] of the source's own shrinkage probes read on target texts through ``back``, a map target → source.

    The second route of the same claim: probes are pulled back with a separately fitted map, vectors pushed forward.
    """
    texts = check_texts(source, target)
    if back.source.mean.shape != texts.target_test.x.shape[1:]:
        raise UsageError(
            f"the map reads vectors of width {len(back.source.mean)}, the target has {texts.target_test.x.shape[1]}",
            "fit it with the target's map set first: fit_alignment(map_target, map_source)",
        )
    mapped = Texts(
        back.predict(texts.target_test.x), texts.target_test.codes, texts.target_test.clusters, texts.target_test.rows
    )
    probe = native_probe(texts.source_fit, mapped, len(texts.emotions), back.target)
    return transfer_matrix(probe.scores(), texts.target_test.codes, len(texts.emotions))
