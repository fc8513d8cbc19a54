"""The program that makes the built-in dual encoder `pocket`; its card says how."""
