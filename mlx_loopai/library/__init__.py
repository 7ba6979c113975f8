"""The Python library behind `import mlx_loopai`: the program's work as plain functions, without a command line."""
