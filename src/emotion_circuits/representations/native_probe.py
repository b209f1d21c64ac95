"""The ceiling of transfer: shrinkage linear discriminants fitted in the target model itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg
from sklearn.covariance import ledoit_wolf_shrinkage

from emotion_circuits.representations.alignment_scaling import Scaling, principal_components
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.sharing_arrays import Texts


@dataclass(frozen=True)
class NativeProbe:
    """LDA in the span of the fit texts, which holds every direction that it can find.

    ``fit`` ``[fit text, s]`` and ``test`` ``[test text, s]`` are coordinates there, ``shrinkage`` is Ledoit and Wolf's
    (2004), kept in resamples, and ``ridge`` the shrinkage target per unit of trace: 1 / d.
    """

    fit: FloatArray
    test: FloatArray
    texts: Texts
    emotions: int
    shrinkage: float
    ridge: float

    def scores(self, weights: FloatArray | None = None) -> FloatArray:
        """``[emotion, test text]``: Σ⁻¹(mean of the emotion − mean of the others), fitted with text multiplicities.

        Σ = (1 − γ) S + γ tr(S)/d I with S the pooled within-emotion covariance (Friedman 1989).
        """
        w = np.ones(len(self.fit)) if weights is None else weights
        member = np.eye(self.emotions)[self.texts.codes] * w[:, None]
        means = member.T @ self.fit / np.maximum(member.sum(axis=0), 1e-300)[:, None]
        residuals = self.fit - means[self.texts.codes]
        scatter = (residuals * w[:, None]).T @ residuals / w.sum()
        sigma = (1 - self.shrinkage) * scatter
        sigma[np.diag_indices_from(sigma)] += max(self.shrinkage, 1e-8) * np.trace(scatter) * self.ridge
        contrasts = means - means.mean(axis=0)
        return np.asarray(linalg.solve(sigma, contrasts.T, assume_a="pos").T @ self.test.T)


def native_probe(fit: Texts, test: Texts, emotions: int, scaling: Scaling) -> NativeProbe:
    """Prepare the probe in the target's standard coordinates."""
    z, z_test = scaling.standardise(fit.x), scaling.standardise(test.x)
    centre = z.mean(axis=0)
    basis, _ = principal_components(z - centre, min(z.shape))
    means = np.stack([z[fit.codes == i].mean(axis=0) for i in range(emotions)])
    gamma = float(ledoit_wolf_shrinkage(z - means[fit.codes], assume_centered=True))
    return NativeProbe((z - centre) @ basis, (z_test - centre) @ basis, fit, emotions, gamma, 1 / z.shape[1])
