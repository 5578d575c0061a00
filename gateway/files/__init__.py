"""Uploaded files: where their bytes are kept, how they come in and go out, and when they go. Rows are the store's."""
