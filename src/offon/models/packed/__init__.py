"""Many sequences in one forward pass: what of it is packed, in which layout, and where it has to be split."""
