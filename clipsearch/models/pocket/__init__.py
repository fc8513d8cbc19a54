"""The built-in dual encoder `pocket`: weights, configuration, and the program that makes them."""
