"""The RStudio AI blog of May 2020: DP-SGD on Omniglot's alphabets, and characters rebuilt."""
