"""MindSpore Armour's tutorial: LeNet-5 with silent weights, attacked at every cut."""
