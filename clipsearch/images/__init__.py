"""Files to pixels: find image files, decode them in separate processes, make thumbnails.

In: a folder, or the path of a file. Out: ``ImageFile`` listings and ``DecodedImage`` pixels.
"""
