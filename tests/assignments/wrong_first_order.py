"""Typical wrong answers to the assignment `first_order`, and the points that each of them loses.

`WRONG` maps a short name to (answer cells, losses): the new code of each answer cell by its
grade_id, and the lost points by the grade_id of the test cell. Every other coded part keeps all its
points.
"""

from __future__ import annotations

WRONG: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "factorials_forgotten": (
        {
            "coefficients": """
def coefficients(f, step, order):
    h = sympy.Dummy("h")
    line = sympy.sympify(f(*[h * s for s in step]))
    return [line.diff(h, k).subs(h, 0) for k in range(order + 1)]
"""
        },
        {"test_coefficients": 1},
    ),
    "mixed_derivatives_dropped": (
        {
            "gap_coefficients": """
def gap_coefficients(f, p, order):
    gap = [0] * (order + 1)
    for k, weight in enumerate(p):
        unit = [int(j == k) for j in range(len(p))]
        for m, own in enumerate(coefficients(f, unit, order)):
            gap[m] += (weight**m - weight) * own if m else 0
    return [sympy.expand(g) for g in gap]
"""
        },
        {"test_gap_coefficients": 2},
    ),
    "finite_differences_in_single_precision": (
        {
            "directional": """
def directional(f, theta, step):
    h = 1e-7
    moved = f((theta + h * step).float().double()).float()
    return ((moved - f(theta).float()) / h).double()
"""
        },
        {"test_directional": 2},
    ),
    "gradient_of_the_loss": (
        {
            "directional": """
def directional(f, theta, step):
    labels = torch.zeros(len(f(theta)), dtype=torch.long)

    def loss(moved):
        return torch.nn.functional.cross_entropy(f(moved), labels)

    return torch.func.grad(loss)(theta) @ step
"""
        },
        {"test_directional": 2},
    ),
    "mixing_weights_forgotten": (
        {
            "soup_and_ensemble": """
def soup_and_ensemble(f, start, steps, weights):
    each = torch.stack([f(start + step) for step in steps])
    return f(start + steps.mean(0)), each.mean(0)
"""
        },
        {"test_soup_and_ensemble": 2},
    ),
    "expanded_around_a_member": (
        {
            "linear": """
def linear(f, start, steps, weights):
    member = start + steps[0]
    return f(member) + directional(f, member, weights @ steps - steps[0])
"""
        },
        {"test_linear": 2},
    ),
    "expanded_around_zero": (
        {
            "linear": """
def linear(f, start, steps, weights):
    zero = torch.zeros_like(start)
    return f(zero) + directional(f, zero, start + weights @ steps)
"""
        },
        {"test_linear": 2},
    ),
    "steps_not_weighted": (
        {
            "linear": """
def linear(f, start, steps, weights):
    return f(start) + directional(f, start, steps.mean(0))
"""
        },
        {"test_linear": 2},
    ),
    "soup_against_the_start": (
        {
            "gap_curve": """
def gap_curve(f, start, steps, weights, scales):
    gaps = []
    for h in scales:
        soup, ensemble = soup_and_ensemble(f, start, h * steps, weights)
        gaps.append((soup - f(start)).square().mean().sqrt())
    return torch.stack(gaps)
"""
        },
        {"test_gap_curve": 2},
    ),
    "slope_without_logarithms": (
        {
            "slope": """
def slope(scales, gaps):
    x, y = scales - scales.mean(), gaps - gaps.mean()
    return ((x * y).sum() / x.square().sum()).item()
"""
        },
        {"test_slope": 2},
    ),
    "slope_between_two_points": (
        {
            "slope": """
def slope(scales, gaps):
    return ((gaps[-1] / gaps[0]).log() / (scales[-1] / scales[0]).log()).item()
"""
        },
        {"test_slope": 2},
    ),
    "second_order_taken_at_the_start": (
        {
            "predicted_gap": """
def predicted_gap(f, start, steps, weights):
    gap = 0
    for p, step in zip(weights, steps, strict=True):
        d = step - weights @ steps

        def first(theta, d=d):
            return jvp(f, (theta,), (d,))[1]

        gap = gap - p / 2 * jvp(first, (start,), (d,))[1]
    return gap
"""
        },
        {"test_predicted_gap_point": 1},
    ),
    "second_order_along_the_steps_from_the_start": (
        {
            "predicted_gap": """
def predicted_gap(f, start, steps, weights):
    gap = 0
    for p, step in zip(weights, steps, strict=True):

        def first(theta, d=step):
            return jvp(f, (theta,), (d,))[1]

        gap = gap - p / 2 * jvp(first, (start,), (step,))[1]
    return gap
"""
        },
        {"test_predicted_gap": 2, "test_predicted_gap_point": 1},
    ),
    "outgoing_weights_not_permuted": (
        {
            "permuted": """
def permuted(theta, order):
    W1, b1, W2, b2 = unpack(theta)
    return pack(W1[order], b1[order], W2, b2)
"""
        },
        {"test_permuted": 2},
    ),
    "nothing_permuted": (
        {
            "permuted": """
def permuted(theta, order):
    return theta
"""
        },
        {"test_permuted": 2},
    ),
}
