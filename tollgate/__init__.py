"""What gateway and worker share, and the command `tollgate`."""

__version__ = "0.1.0"
