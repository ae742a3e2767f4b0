"""AIJack's tutorial: MI-FACE against classifiers of people, with and without DP-SGD."""
