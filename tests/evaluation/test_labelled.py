"""Labelled sets: read strictly, and every complaint names its line."""

import os
import sys
from pathlib import Path

import pytest

from clipsearch.domain.taxonomy import Domain
from clipsearch.errors import BadLabels, RefusedByPolicy, TooFewExamples
from clipsearch.evaluation import labelled
from clipsearch.evaluation.labelled import CaptionedImages, LabelledImages, MultiLabelImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that look like images; nothing here opens them."""
    root = tmp_path / "set"
    for name in ("cat/1.jpg", "Kitten/2.png", "african_elephant/a/3.JPG", "Hot-Dog/4.webp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "README.md").write_text("not an image")
    return root


def table(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


class TestFolders:
    def test_folder_names_are_labels(self, folder: Path, small: Domain) -> None:
        found = labelled.read(folder, small)
        assert isinstance(found, LabelledImages)
        by_path = dict(zip(found.paths, found.classes, strict=True))
        assert by_path == {
            b"Hot-Dog/4.webp": 2,
            b"Kitten/2.png": 0,
            b"african_elephant/a/3.JPG": 1,
            b"cat/1.jpg": 0,
        }
        assert list(found.paths) == sorted(found.paths)
        assert found.root == os.fsencode(folder)
        assert found.per_class() == {0: 2, 1: 1, 2: 1}

    def test_a_folder_that_is_no_class(self, folder: Path, small: Domain) -> None:
        (folder / "kiten").mkdir()
        (folder / "kiten/x.jpg").touch()
        (folder / "zebra").mkdir()
        (folder / "zebra/x.jpg").touch()
        with pytest.raises(BadLabels, match=r"'kiten' is not a class of the domain small .*kitten"):
            labelled.read(folder, small)

    def test_a_folder_without_pictures_is_passed_over(self, folder: Path, small: Domain) -> None:
        (folder / "notes").mkdir()
        assert len(labelled.read(folder, small).paths) == 4

    def test_a_stray_picture(self, folder: Path, small: Domain) -> None:
        (folder / "x.jpg").touch()
        with pytest.raises(BadLabels, match=r"x\.jpg is not in a class folder"):
            labelled.read(folder, small)

    def test_nothing_there(self, tmp_path: Path, small: Domain) -> None:
        with pytest.raises(TooFewExamples, match="no labeled images"):
            labelled.read(tmp_path, small)
        with pytest.raises(BadLabels, match="does not exist"):
            labelled.read(tmp_path / "absent", small)

    @pytest.mark.skipif(sys.platform != "linux", reason="names need not be UTF-8 on Linux alone")
    def test_names_that_are_not_utf_8(self, folder: Path, small: Domain) -> None:
        with open(os.path.join(os.fsencode(folder), b"cat/\xff.jpg"), "wb"):
            pass
        assert b"cat/\xff.jpg" in labelled.read(folder, small).paths


class TestLabels:
    @pytest.mark.parametrize(
        "text",
        [
            "path,label\ncat/1.jpg,cat\nHot-Dog/4.webp,HOT_DOG\n",
            "path\tlabel\r\ncat/1.jpg\tkitten\r\nHot-Dog/4.webp\thot dog\r\n",
            '\ufeff"Label","Path"\n"cat","cat/1.jpg"\n\n"hot-dog","./Hot-Dog/4.webp"\n',
            "id;filename;class\n7;cat/1.jpg;Cat\n8;Hot-Dog/4.webp;Hot dog",
        ],
    )
    def test_tables_of_labels(self, folder: Path, small: Domain, text: str) -> None:
        found = labelled.read(table(folder, text), small)
        assert isinstance(found, LabelledImages)
        assert found.paths == (b"Hot-Dog/4.webp", b"cat/1.jpg")
        assert found.classes == (2, 0)
        assert found.root == os.fsencode(folder)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "line 1: the header is ''"),
            ("a,b\n", "line 1: the header is 'a,b'"),
            ("path,label,caption\n", "line 1: the header"),
            ("path,label\ncat/1.jpg,dog\n", "line 2: the label 'dog' is not a class"),
            ("path,label\n\n\ncat/1.jpg,kiten\n", r"line 4: .*did you mean kitten"),
            ("path,label\ncat/1.jpg,cat\ncat/9.jpg,cat\n", r"line 3: there is no file .*9\.jpg"),
            ("path,label\ncat,cat\n", r"line 2: there is no file"),
            ("path,label\ncat/1.jpg\n", "line 2: 1 fields, but the header has 2"),
            ("path,label\ncat/1.jpg,cat,x\n", "line 2: 3 fields, but the header has 2"),
            ("path,label\n,cat\n", "line 2: empty path"),
            ("path,label\ncat/1.jpg, \n", "line 2: empty text"),
            (
                "path,label\ncat/1.jpg,cat\n./cat/1.jpg,Cat\n",
                "line 3: .*label 'Cat', on line 2",
            ),
            ("path,label\ncat/1.jpg,cat\nHot-Dog/../cat/1.jpg,cat\n", "line 3: .* on line 2"),
            ("path,label\ncat/1.jpg,cat\ncat/1.jpg,\n", "line 3: empty text"),
            (
                "path,label\ncat/1.jpg,cat\ncat/1.jpg,dog\n",
                "line 3: the label 'dog' is not a class",
            ),
            ("path,label\n../../../../../../../../etc,cat\n", "line 2: there is no file"),
            ("path,label\nca\0t/1.jpg,cat\n", "line 2"),
            ('path,label\ncat/1.jpg,"cat\n', r"line 2: "),
            ('path,label\ncat/1.jpg,"c"at\n', r"line 2: "),
            (b"path,label\ncat/1.jpg,\xff\n", "line 2: not UTF-8"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, folder: Path, small: Domain, text: str | bytes, message: str
    ) -> None:
        with pytest.raises(BadLabels, match=message):
            labelled.read(table(folder, text), small)

    def test_an_empty_table(self, folder: Path, small: Domain) -> None:
        with pytest.raises(TooFewExamples, match="no labeled images"):
            labelled.read(table(folder, "path,label\n"), small)

    def test_a_path_may_lead_out_of_the_tables_folder(self, folder: Path, small: Domain) -> None:
        (folder.parent / "beside.jpg").touch()
        found = labelled.read(table(folder, "path,label\ncat/../../beside.jpg,cat\n"), small)
        assert found.paths == (b"../beside.jpg",)

    def test_absolute_paths(self, folder: Path, small: Domain) -> None:
        picture = folder / "cat/1.jpg"
        found = labelled.read(table(folder, f"path,label\n{picture},cat\n"), small)
        assert found.paths == (os.fsencode(picture),)


class TestSeveralLabels:
    TEXT = "path,label,area\ncat/1.jpg,hot dog,0.5\nHot-Dog/4.webp,HOT_DOG,1\n./cat/1.jpg,cat,0.2\n"

    def test_several_labels_a_picture(self, folder: Path, small: Domain) -> None:
        path = table(folder, self.TEXT)
        assert labelled.read(path, small) == MultiLabelImages(
            source=str(path),
            root=os.fsencode(folder),
            paths=(b"Hot-Dog/4.webp", b"cat/1.jpg"),
            labels=((2,), (0, 2)),
        )

    def test_synonyms_of_one_class_are_one_label(self, folder: Path, small: Domain) -> None:
        found = labelled.read(table(folder, "path,label\ncat/1.jpg,cat\ncat/1.jpg,kitten\n"), small)
        assert isinstance(found, LabelledImages)
        assert found.classes == (0,)

    def test_a_part(self, folder: Path, small: Domain) -> None:
        found = labelled.read(table(folder, self.TEXT), small)
        assert isinstance(found, MultiLabelImages)
        assert (found.only([1]).paths, found.only([1]).labels) == ((b"cat/1.jpg",), ((0, 2),))

    def test_the_fingerprint_is_of_all_labels_in_any_order(
        self, folder: Path, small: Domain
    ) -> None:
        def of(text: str) -> str:
            found = labelled.read(table(folder, text), small)
            return labelled.fingerprint(found, small, list(found.paths))

        head, *rows = self.TEXT.splitlines()
        assert of(self.TEXT) == of("\n".join([head, *reversed(rows)]))
        assert of(self.TEXT) != of("\n".join([head, *rows[:2]]))

    def test_classes_are_not_learned_from_them(self, folder: Path, small: Domain) -> None:
        with pytest.raises(BadLabels, match=r"cat/1\.jpg has several labels"):
            labelled.read_single(table(folder, self.TEXT), small)
        with pytest.raises(BadLabels, match="has captions"):
            labelled.read_single(table(folder, "path,caption\ncat/1.jpg,x\n"), small)


class TestCaptions:
    def test_several_captions_a_picture(self, folder: Path, small: Domain) -> None:
        text = 'path,caption\ncat/1.jpg,a cat\nKitten/2.png,"small, and\nsoft"\ncat/1.jpg,asleep\n'
        found = labelled.read(table(folder, text), small)
        assert found == CaptionedImages(
            source=str(folder / "labels.csv"),
            root=os.fsencode(folder),
            paths=(b"cat/1.jpg", b"Kitten/2.png"),
            captions=("a cat", "small, and\nsoft", "asleep"),
            images=(0, 1, 0),
        )

    def test_the_same_caption_twice(self, folder: Path, small: Domain) -> None:
        text = "path,caption\ncat/1.jpg,a cat\nKitten/2.png,a cat\ncat/1.jpg,a cat\n"
        with pytest.raises(BadLabels, match=r"line 4: .* already has this caption, on line 2"):
            labelled.read(table(folder, text), small)


class TestFingerprint:
    def test_is_of_content_and_labels(self, folder: Path, small: Domain) -> None:
        def of(text: str, hashes: dict[str, bytes]) -> str:
            found = labelled.read(table(folder, text), small)
            names = [hashes[os.fsdecode(path)] for path in found.paths]
            return labelled.fingerprint(found, small, names)

        hashes = {"cat/1.jpg": b"1", "Kitten/2.png": b"2"}
        base = of("path,label\ncat/1.jpg,cat\nKitten/2.png,hot dog\n", hashes)
        assert base == of("path,label\nKitten/2.png,HOT_DOG\ncat/1.jpg,kitten\n", hashes)
        assert base == of(
            "path,label\ncat/1.jpg,hot dog\nKitten/2.png,cat\n",
            {"cat/1.jpg": b"2", "Kitten/2.png": b"1"},
        )
        assert base != of("path,label\ncat/1.jpg,hot dog\nKitten/2.png,cat\n", hashes)
        assert base != of("path,label\ncat/1.jpg,cat\n", hashes)
        assert base != of("path,caption\ncat/1.jpg,cat\nKitten/2.png,hot dog\n", hashes)


class TestOwnTaxonomy:
    def test_folders_of_any_name_are_classes(self, folder: Path, small: Domain) -> None:
        (folder / "deep_Scratch").mkdir()
        (folder / "deep_Scratch/x.jpg").touch()
        (folder / "nothing").mkdir()
        own = labelled.own_taxonomy(folder, small)
        names = ("Hot-Dog", "Kitten", "african elephant", "cat", "deep Scratch")
        assert own.class_names == names
        assert own.prompts(4) == ("a photo of a deep Scratch.", "a drawing of the deep Scratch.")
        assert own.prompts(0) == ("a sausage in a bun.",)
        found = labelled.read(folder, own)
        assert isinstance(found, LabelledImages)
        assert {names[c] for c in found.classes} == set(names)

    def test_spellings_of_one_label_are_one_class(self, folder: Path, small: Domain) -> None:
        text = "path,label\ncat/1.jpg,Loose_Thread\nKitten/2.png,loose-thread\nHot-Dog/4.webp,ok\n"
        own = labelled.own_taxonomy(table(folder, text), small)
        assert own.class_names == ("Loose Thread", "ok")
        found = labelled.read(table(folder, text), own)
        assert isinstance(found, LabelledImages)
        assert found.per_class() == {0: 2, 1: 1}

    def test_captions_are_no_classes(self, folder: Path, small: Domain) -> None:
        with pytest.raises(BadLabels, match="has captions"):
            labelled.own_taxonomy(table(folder, "path,caption\ncat/1.jpg,a cat\n"), small)

    def test_what_the_policy_refuses(self, folder: Path, small: Domain) -> None:
        text = "path,label\ncat/1.jpg,identify_this_man\n"
        with pytest.raises(RefusedByPolicy, match="identify this man"):
            labelled.own_taxonomy(table(folder, text), small)

    def test_nothing_there(self, tmp_path: Path, small: Domain) -> None:
        with pytest.raises(TooFewExamples, match="no labeled images"):
            labelled.own_taxonomy(tmp_path, small)
        with pytest.raises(BadLabels, match="does not exist"):
            labelled.own_taxonomy(tmp_path / "absent", small)

    @pytest.mark.skipif(sys.platform != "linux", reason="names need not be UTF-8 on Linux alone")
    def test_a_name_that_is_no_text(self, folder: Path, small: Domain) -> None:
        os.rename(os.path.join(os.fsencode(folder), b"cat"), os.fsencode(folder) + b"/\xff")
        with pytest.raises(BadLabels, match="is not text"):
            labelled.own_taxonomy(folder, small)


class TestParts:
    def test_of_labels(self, folder: Path, small: Domain) -> None:
        found = labelled.read(folder, small)
        assert isinstance(found, LabelledImages)
        part = found.only([1, 3])
        assert part.paths == (found.paths[1], found.paths[3])
        assert part.classes == (found.classes[1], found.classes[3])

    def test_of_captions(self, folder: Path, small: Domain) -> None:
        text = "path,caption\ncat/1.jpg,a\nKitten/2.png,b\nHot-Dog/4.webp,c\nKitten/2.png,d\n"
        found = labelled.read(table(folder, text), small)
        assert isinstance(found, CaptionedImages)
        part = found.only([1, 2])
        assert part.paths == (b"Kitten/2.png", b"Hot-Dog/4.webp")
        assert (part.captions, part.images) == (("b", "c", "d"), (0, 1, 0))
