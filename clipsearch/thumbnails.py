"""Small JPEGs of pictures, for a page: decoded as safely as when they are indexed."""

from collections.abc import Sequence

from clipsearch.decode_pool import DecodePool
from clipsearch.decoding import jpeg
from clipsearch.records import DecodedImage, ImageFile, Preprocessing

_AHEAD = 16


def thumbnails(root: bytes, paths: Sequence[bytes], size: int) -> dict[bytes, bytes]:
    """The middle square of each picture, ``size`` pixels wide, by path: what most models see.

    Pictures that cannot be decoded are left out.
    """
    square = Preprocessing(size=(size, size), mean=(0, 0, 0), std=(1, 1, 1))
    files = [ImageFile(path, 0, 0) for path in paths]
    with DecodePool(root, files, square, max_pixels=None, ahead=_AHEAD) as pool:
        return {
            file.path: jpeg(outcome.pixels)
            for file, outcome in pool
            if isinstance(outcome, DecodedImage)
        }
