"""Converts checkpoints between MLX, Hugging Face, GGUF and PEFT.

The data flows one way: a reader gives a `Checkpoint` (plain values and lazy tensors), a writer streams it to
files, `verify` reads those files again and compares. Import the modules directly; this package imports nothing,
so that a command's help stays fast.
"""
