"""Webhooks are sent from here: by every beat, and by the embedded mode."""
