"""Small models of every family as transformers makes them, all numbers random."""

import torch
import transformers

# Sizes that differ from each other, so that nothing fits by chance.
_USUAL = dict(
    vocab_size=53, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, type_vocab_size=2,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
_DISTILBERT = dict(vocab_size=53, dim=24, n_layers=2, n_heads=3, hidden_dim=40, dropout=0.0, attention_dropout=0.0)
CONFIGS = {
    "bert": lambda **changes: transformers.BertConfig(**_USUAL | changes),
    "roberta": lambda **changes: transformers.RobertaConfig(**_USUAL | {"type_vocab_size": 1} | changes),
    "xlm-roberta": lambda **changes: transformers.XLMRobertaConfig(**_USUAL | {"type_vocab_size": 1} | changes),
    "distilbert": lambda **changes: transformers.DistilBertConfig(**_DISTILBERT | changes),
    "electra": lambda **changes: transformers.ElectraConfig(**_USUAL | {"embedding_size": 16} | changes),
}
LENGTH = 40  # positions that a row may have
CLASSES = [
    ("bert", "BertForPreTraining"),
    ("bert", "BertForMaskedLM"),
    ("bert", "BertForSequenceClassification"),
    ("roberta", "RobertaForMaskedLM"),
    ("roberta", "RobertaForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForSequenceClassification"),
    ("distilbert", "DistilBertForMaskedLM"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("electra", "ElectraForPreTraining"),
    ("electra", "ElectraForMaskedLM"),
    ("electra", "ElectraForSequenceClassification"),
]
CLASSES += [
    (family, f"{name}For{task}")
    for family, name in {
        "bert": "Bert",
        "roberta": "Roberta",
        "xlm-roberta": "XLMRoberta",
        "distilbert": "DistilBert",
        "electra": "Electra",
    }.items()
    for task in ("TokenClassification", "QuestionAnswering")
]


def make(family, kind, seed=0, scale=0.3, **changes):
    """A model of transformers whose every parameter is random, norms around 1."""
    torch.manual_seed(seed)
    positions = LENGTH + 2 if "roberta" in family else LENGTH
    model = getattr(transformers, kind)(CONFIGS[family](max_position_embeddings=positions, **changes)).eval()
    for name, parameter in model.named_parameters():
        norm = "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=1.0 if norm else 0.0, std=scale)
    return model
