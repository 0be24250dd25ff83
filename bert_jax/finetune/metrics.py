"""The usual measures of a task, in NumPy."""

import numpy as np
from jaxtyping import Float, Int

Labels = Int[np.ndarray, " n"]
Values = Float[np.ndarray, " n"]


def classification_metrics(truth: Labels, predicted: Labels, num_labels: int) -> dict[str, float]:
    """accuracy, precision, recall, f1 and matthews_correlation.

    With two labels, precision, recall and f1 are those of label 1; with more, unweighted means over the labels that
    occur in truth or prediction. What would be 0 / 0 is 0. The correlation is Matthews', for more labels Gorodkin's
    (2004).

    Args:
      truth, predicted: labels from 0 to num_labels - 1.
      num_labels: at least 2.
    """
    confusion = np.zeros((num_labels, num_labels))
    np.add.at(confusion, (truth, predicted), 1)
    right, true, guessed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    total = confusion.sum()
    precision, recall = _ratio(right, guessed), _ratio(right, true)
    f1 = _ratio(2 * right, true + guessed)
    chosen = np.array([1]) if num_labels == 2 else np.flatnonzero(true + guessed)
    covariance = right.sum() * total - true @ guessed
    spread = np.sqrt(total**2 - guessed @ guessed) * np.sqrt(total**2 - true @ true)
    return {
        "accuracy": float(right.sum() / total),
        "precision": float(precision[chosen].mean()),
        "recall": float(recall[chosen].mean()),
        "f1": float(f1[chosen].mean()),
        "matthews_correlation": float(_ratio(covariance, spread)),
    }


def regression_metrics(truth: Values, predicted: Values) -> dict[str, float]:
    """pearson, spearman (ties share their mean rank) and mean_squared_error; a correlation with a constant is 0."""
    return {
        "pearson": _correlation(truth, predicted),
        "spearman": _correlation(_ranks(truth), _ranks(predicted)),
        "mean_squared_error": float(np.mean((truth - predicted) ** 2)),
    }


def _ratio(above, below) -> np.ndarray:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if np.all(x == x[0]) or np.all(y == y[0]):
        return 0.0
    x, y = x.astype(np.float64) - x.mean(), y.astype(np.float64) - y.mean()
    return float(_ratio(x @ y, np.sqrt(x @ x) * np.sqrt(y @ y)))


def _ranks(x: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2.0)[inverse]
