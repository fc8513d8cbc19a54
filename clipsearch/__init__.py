"""Find images in local folders by text or by example, on one machine."""

__version__ = "0.1.0"
