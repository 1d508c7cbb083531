"""Evaluation: model against labels, labels against ground truth, and what the tokenizers alone lose."""
