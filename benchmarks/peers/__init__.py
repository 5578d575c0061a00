"""What Tollgate is compared with, as its own documentation says to run it."""
