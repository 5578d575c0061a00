"""The speeds that Tollgate promises, each beside a peer or a limit measured in the same run: `make bench`."""
