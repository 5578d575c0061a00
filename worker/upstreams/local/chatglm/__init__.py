"""ChatGLM2 and ChatGLM3 checkpoints, made into native GLM ones; and what to say of those that are not converted."""
