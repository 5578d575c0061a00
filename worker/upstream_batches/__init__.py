"""Buys lines of batches through ZhipuAI's own batches, at half the price (ADR 21)."""
