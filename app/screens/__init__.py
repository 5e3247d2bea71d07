"""The rooms of the terminal application."""
