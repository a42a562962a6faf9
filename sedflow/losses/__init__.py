"""Losses: a step (batch, student, teacher) → a scalar; zero without rows of its source, gradient to the student."""
