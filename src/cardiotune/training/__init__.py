"""Tokens -> a fine-tuned model."""
