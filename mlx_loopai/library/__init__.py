"""What `import mlx_loopai` offers: the program's work as plain functions, without a command line around it."""
