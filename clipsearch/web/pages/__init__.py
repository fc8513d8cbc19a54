"""Each page as HTML text: contact sheet, duplicates, evaluation, browse."""
