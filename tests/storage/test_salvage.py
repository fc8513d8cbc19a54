"""What is left of a damaged catalog is copied, and what cannot be read is left out."""

from pathlib import Path

from fakes import fake_spec, half, picture
from small_index import add

from clipsearch.records import ImageFile
from clipsearch.storage.catalog import CATALOG, Store


def test_all_of_a_whole_catalog_is_copied_but_pictures_without_a_vector(
    writer: Store, tmp_path: Path
) -> None:
    add(writer, [picture(b"%d.png" % n, n) for n in range(5)])
    lost = writer.known()[b"3.png"].id
    with writer.batch():
        writer.add_failed(ImageFile(b"bad.png", 1, 2), "the file is empty")
        writer.attach("domain", "text")
        writer.attach("texts", b"bytes")
        writer._db.execute("DELETE FROM vectors WHERE id = ?", (lost,))
    before = writer.known()
    with Store.create(tmp_path / "saved", tmp_path, fake_spec()) as saved:
        assert saved.salvage(writer.directory / CATALOG, pictures=True) == 5
        assert saved.known() == {path: before[path] for path in before if path != b"3.png"}
        assert saved.status().failed == [(b"bad.png", "the file is empty")]
        assert (saved.attachment("domain"), saved.attachment("texts")) == ("text", b"bytes")
        for n in (0, 1, 2, 4):
            vector = saved.vector(before[b"%d.png" % n].id)
            assert (half(vector) == half(picture(b"", n).vector)).all()


def test_a_missing_table_costs_only_what_was_in_it(writer: Store, tmp_path: Path) -> None:
    add(writer, [picture(b"0.png", 0)])
    writer._db.execute("DROP TABLE attachments")
    with Store.create(tmp_path / "saved", tmp_path, fake_spec()) as saved:
        assert saved.salvage(writer.directory / CATALOG, pictures=True) == 1
        assert list(saved.known()) == [b"0.png"]
        assert saved.attached("") == []
