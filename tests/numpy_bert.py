"""BERT once more, in float64 NumPy and as plainly as possible: the truth that the model is compared with.

It takes the parameter tree, and dropout as a function, so that the very draws of the model can be given to it.
"""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])


def no_dropout(x, site, layer=0):
    """Evaluation."""
    return x


def layer_norm(x, p, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def attention(x, segment_ids, p, layer, drop):
    """One row at a time, one head at a time, one segment at a time."""
    rows, length, _ = x.shape
    heads, head = p["query"]["bias"].shape[1:]
    probabilities = np.zeros((rows, heads, length, length))
    values = np.einsum("bsd,dnh->bnsh", x, p["value"]["kernel"][layer]) + p["value"]["bias"][layer][None, :, None]
    for row in range(rows):
        for n in range(heads):
            q = x[row] @ p["query"]["kernel"][layer, :, n] + p["query"]["bias"][layer, n]
            k = x[row] @ p["key"]["kernel"][layer, :, n] + p["key"]["bias"][layer, n]
            for segment in np.unique(segment_ids[row]):
                at = np.flatnonzero(segment_ids[row] == segment)
                e = np.exp(q[at] @ k[at].T / math.sqrt(head))
                probabilities[row, n, at[:, None], at[None, :]] = e / e.sum(-1, keepdims=True)
    probabilities = drop(probabilities, "attention", layer)
    context = probabilities @ values  # [B,N,S,H]
    merged = context.transpose(0, 2, 1, 3).reshape(rows, length, heads * head)
    return merged @ p["output"]["kernel"][layer].reshape(heads * head, -1) + p["output"]["bias"][layer]


def encode(params, batch, eps, drop=no_dropout):
    """Hidden states of the last layer, [B,S,D]."""
    e = params["embeddings"]
    x = (
        e["word"]["embedding"][batch["input_ids"]]
        + e["position"]["embedding"][batch["position_ids"]]
        + e["token_type"]["embedding"][batch["token_type_ids"]]
    )
    x = drop(layer_norm(x, e["norm"], eps), "embeddings")
    layers = params["layers"]
    for layer in range(layers["mlp"]["up"]["bias"].shape[0]):
        one = {name: {k: v[layer] for k, v in layers[name].items()} for name in ("attention_norm", "mlp_norm")}
        y = drop(attention(x, batch["segment_ids"], layers["attention"], layer, drop), "attention_output", layer)
        x = layer_norm(x + y, one["attention_norm"], eps)
        up, down = layers["mlp"]["up"], layers["mlp"]["down"]
        y = gelu(x @ up["kernel"][layer] + up["bias"][layer]) @ down["kernel"][layer] + down["bias"][layer]
        x = layer_norm(x + drop(y, "mlp_output", layer), one["mlp_norm"], eps)
    return x


def _at(hidden, positions):
    return np.stack([hidden[row][positions[row]] for row in range(len(hidden))])


def pool(params, hidden, cls_positions):
    return np.tanh(_at(hidden, cls_positions) @ params["pooler"]["kernel"] + params["pooler"]["bias"])


def mlm_logits(params, hidden, positions, eps, vocab_size):
    """Over the real vocabulary."""
    p = params["mlm"]
    x = gelu(_at(hidden, positions) @ p["transform"]["kernel"] + p["transform"]["bias"])
    x = layer_norm(x, p["norm"], eps)
    return x @ params["embeddings"]["word"]["embedding"][:vocab_size].T + p["decoder"]["bias"][:vocab_size]


def nsp_logits(params, pooled):
    return pooled @ params["nsp"]["kernel"] + params["nsp"]["bias"]


def cross_entropy(logits, labels):
    """(sum, count, correct), one label at a time."""
    total, count, correct = 0.0, 0, 0
    for values, label in zip(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), strict=True):
        if label >= 0:
            total += np.log(np.exp(values - values.max()).sum()) + values.max() - values[label]
            count += 1
            correct += int(values.argmax() == label)
    return total, count, correct


def loss(params, batch, eps, vocab_size, drop=no_dropout):
    """mlm_loss + nsp_loss of a batch (nsp where the parameters have it)."""
    hidden = encode(params, batch, eps, drop)
    logits = mlm_logits(params, hidden, batch["masked_lm_positions"], eps, vocab_size)
    total, count, _ = cross_entropy(logits, batch["masked_lm_labels"])
    value = total / max(count, 1)
    if "nsp" in params:
        logits = nsp_logits(params, pool(params, hidden, batch["cls_positions"]))
        total, count, _ = cross_entropy(logits, batch["next_sentence_labels"])
        value += total / max(count, 1)
    return value
