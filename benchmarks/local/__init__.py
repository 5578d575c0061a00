"""The speeds of local inference, on models with random weights: `make bench-local`."""
