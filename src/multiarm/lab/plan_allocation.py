"""Shares of traffic for thousands of experiments at once: P(best) by formulas that cost a microsecond or so each.

`multiarm.domain.probability` is right to 1e-12 and takes 0.3 ms an experiment; a simulation of 10⁷ allocations cannot
wait for that. Tests hold these against it: two arms to 1e-3 (relative in the tails), more arms to 1e-2.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, psi

F64 = NDArray[np.float64]

CHUNK = 250  # experiments at once: what their cells take then stays in the processor's cache
EDGE_COUNT = 32
REACH = 7.0  # how far the grid goes, in standard deviations of an arm on the logit axis
LEAST = 0.3  # the smallest argument of ψ on the way to a saddlepoint
FLAT = 1e-2
NEAR = 0.02  # below this the saddlepoint formula is 1/0 − 1/0, and its limit takes over


def equal_split(pulls: F64, successes: F64) -> F64:
    """Shares float64[..., K], 1/K each."""
    del successes
    return np.full(pulls.shape, 1.0 / pulls.shape[-1])


def thompson(pulls: F64, successes: F64) -> F64:
    """P(arm is best) float64[..., K] from Beta(1, 1) priors: what policy `thompson` allocates."""
    alpha, beta = 1.0 + successes, 1.0 + (pulls - successes)
    if pulls.shape[-1] == 2:
        first = probability_above(alpha[..., 0], beta[..., 0], alpha[..., 1], beta[..., 1])
        return np.stack([first, 1 - first], axis=-1)
    shape = alpha.shape
    alpha, beta = alpha.reshape(-1, shape[-1]), beta.reshape(-1, shape[-1])
    parts = (slice(row, row + CHUNK) for row in range(0, len(alpha), CHUNK))
    return np.concatenate([probability_best(alpha[part], beta[part]) for part in parts]).reshape(shape)


def top_two(pulls: F64, successes: F64) -> F64:
    """What policy `top_two` allocates with β = ½: ψ_i = p_i (1 + Σ_{j≠i} p_j / (1 − p_j)) / 2, Russo (2016), §3.3."""
    best = np.clip(thompson(pulls, successes), 1e-9, 1 - 1e-9)
    odds = best / (1 - best)
    share = best * (1 + odds.sum(axis=-1, keepdims=True) - odds)
    return np.asarray(share / share.sum(axis=-1, keepdims=True))


def probability_above(alpha: F64, beta: F64, alpha_2: F64, beta_2: F64) -> F64:
    """P(X > Y), X ~ Beta(alpha, beta), Y ~ Beta(alpha_2, beta_2), parameters ≥ 1: Lugannani and Rice (1980), eq. 10.

    logit X − logit Y is a sum of four log-Gamma variables, so its cumulant generating function is a sum of ln Γ; its
    saddlepoint is rational where ψ(x) is ln(x − ½), and two steps of Newton's method from there.
    """
    a, d, b, c = alpha - 0.5, beta_2 - 0.5, beta - 0.5, alpha_2 - 0.5
    low, high = LEAST - np.minimum(alpha, beta_2), np.minimum(beta, alpha_2) - LEAST
    s = (b * c - a * d) / (a + b + c + d)
    for _ in range(2):
        slope = psi(alpha + s) + psi(beta_2 + s) - psi(beta - s) - psi(alpha_2 - s)
        step = slope / sum(trigamma(x) for x in (alpha + s, beta_2 + s, beta - s, alpha_2 - s))
        s = np.clip(s - step, low, high)
    plus, minus = (alpha, beta_2), (beta, alpha_2)
    cumulant = sum(gammaln(x + s) - gammaln(x) for x in plus) + sum(gammaln(x - s) - gammaln(x) for x in minus)
    curvature = sum(trigamma(x + s) for x in plus) + sum(trigamma(x - s) for x in minus)
    skew = sum(tetragamma(x) for x in plus) - sum(tetragamma(x) for x in minus)
    u = s * np.sqrt(curvature)
    r = np.sign(s) * np.sqrt(np.maximum(-2 * cumulant, 0.0))
    near = np.abs(u) < NEAR
    r = np.where(near, u, r)
    limit = -skew / (6 * curvature**1.5)
    correction = np.where(near, limit, 1 / np.where(near, 1.0, u) - 1 / np.where(near, 1.0, r))
    probability = ndtr(-r) + np.exp(-(r**2) / 2) / np.sqrt(2 * np.pi) * correction
    return np.asarray(np.clip(probability, 0.0, 1.0))


def trigamma(x: F64) -> F64:
    """ψ′(x) to 1e-4 for x ≥ 0.3: its asymptotic series at x + 2, and back."""
    inverse = 1 / (x + 2)
    series = inverse * (1 + inverse * (0.5 + inverse * (1 / 6 - inverse**2 / 30)))
    return np.asarray(1 / x**2 + 1 / (x + 1) ** 2 + series)


def tetragamma(x: F64) -> F64:
    """ψ″(x) to 1e-4 for x ≥ 0.3, likewise."""
    inverse = 1 / (x + 2)
    series = inverse**2 * (1 + inverse * (1 + inverse * (0.5 - inverse**2 / 6)))
    return np.asarray(-2 / x**3 - 2 / (x + 1) ** 3 - series)


def probability_best(alpha: F64, beta: F64) -> F64:
    """P(each of K Beta variables is the largest) float64[..., K], parameters ≥ 1: ∫ ∏_{j≠k} F_j dF_k, cell by cell.

    F on the logit axis by Barndorff-Nielsen's r*. Cells are even in u, y = centre + scale · sinh(u): fine where the arm
    that promises most lies, coarse far from it.
    """
    variance = trigamma(alpha) + trigamma(beta)
    skew = (tetragamma(alpha) - tetragamma(beta)) / variance**1.5
    y = edges(psi(alpha) - psi(beta), np.sqrt(variance))
    distribution = ndtr(r_star(alpha - 0.5, beta - 0.5, skew, y[..., None, :]))
    distribution[..., -1] = 1.0
    middle = np.maximum((distribution[..., 1:] + distribution[..., :-1]) / 2, 1e-300)
    others = middle.prod(axis=-2, keepdims=True) / middle
    best = (np.diff(distribution, axis=-1) * others).sum(axis=-1)
    return np.asarray(best / best.sum(axis=-1, keepdims=True))


def r_star(a: F64, b: F64, skew: F64, y: F64) -> F64:
    """z of logit p = y under Beta(a + ½, b + ½): a, b, skew float64[..., K], y broadcasts to [..., K, EDGE_COUNT].

    r + ln(u/r)/r, r = ±√(2 n kl(a/n, p)), u = (n p − a) / √(n p q), n = a + b; Barndorff-Nielsen (1986). At r = 0 it is
    a sixth of the skewness.
    """
    total = a + b
    least = a * np.log(a / total) + b * np.log(b / total)
    log_q = -np.logaddexp(0.0, y)
    p, q = np.exp(y + log_q), np.exp(log_q)
    drop = least[..., None] - a[..., None] * y - total[..., None] * log_q
    u = (total[..., None] * p - a[..., None]) / np.sqrt(total[..., None] * p * q)
    r = np.copysign(np.sqrt(2 * np.maximum(drop, 0.0)), u)
    near = np.abs(r) < FLAT
    safe = np.where(near, 1.0, r)
    correction = np.log(np.where(near, 1.0, u) / safe) / safe
    return np.asarray(r + np.where(near, skew[..., None] / 6, correction))


def edges(mean: F64, scale: F64) -> F64:
    """Edges of cells, float64[..., EDGE_COUNT]: from below the arm that promises most to above all arms."""
    promising = np.argmax(mean - 2 * scale, axis=-1)[..., None]
    centre = np.take_along_axis(mean, promising, axis=-1)
    unit = np.take_along_axis(scale, promising, axis=-1)
    high = np.arcsinh(((mean + REACH * scale).max(axis=-1, keepdims=True) - centre) / unit)
    low = -np.arcsinh(REACH)
    u = low + (high - low) * np.linspace(0.0, 1.0, EDGE_COUNT)
    return np.asarray(centre + unit * np.sinh(u))
