"""Reading a domain: what is right is kept, what is wrong is named with its place."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SAMPLES

from clipsearch.domain import taxonomy
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.errors import BadDomain, RefusedByPolicy

Edit = Callable[[str, str], str]


def test_reads_what_is_there(small: Domain) -> None:
    assert small.name == "small"
    assert small.language == "en"
    assert small.class_names == ("cat", "African elephant", "hot dog")
    assert small.classes[0] == DomainClass("cat", ("kitten",), ())
    assert small.pass_marks == {"top1": 0.8}
    assert small.in_domain == ("something with whiskers", "a long trunk")


def test_prompts_are_templates_unless_a_class_has_its_own(small: Domain) -> None:
    assert small.prompts(0) == ("a photo of a cat.", "a drawing of the cat.")
    assert small.prompts(2) == ("a sausage in a bun.",)


def test_round_trips_through_json(small: Domain) -> None:
    for domain in (small, taxonomy.load("everyday")):
        again = Domain.from_json(domain.to_json())
        assert again == domain
        assert again.fingerprint == domain.fingerprint


@pytest.mark.parametrize("label", ["cat", "CAT", "kitten", " Kitten "])
def test_finds_a_class_by_name_or_synonym(small: Domain, label: str) -> None:
    assert small.find_class(label) == 0


@pytest.mark.parametrize("label", ["african_elephant", "African-Elephant", "african  elephant"])
def test_underscores_and_hyphens_are_spaces(small: Domain, label: str) -> None:
    assert small.find_class(label) == 1


@pytest.mark.parametrize("label", ["", "cats", "elephant", "photo"])
def test_other_labels_are_no_class(small: Domain, label: str) -> None:
    assert small.find_class(label) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "small"', "name = small", r", line 2: not valid TOML"),
        ("top1 = 0.8", "top1 = 0.8\ntop1 = 0.9", r", line \d+: not valid TOML"),
        ('name = "small"\n', "", r", name: missing$"),
        ('name = "small"', "name = 3", r", name: must be a string .*, not 3$"),
        ('name = "small"', 'name = " "', r", name: must not be empty"),
        ('name = "small"', 'name = "small"\ntitle = "x"', r": unknown key 'title'"),
        (
            'name = "small"',
            'name = "small"\nlanguage = "English"',
            r", language: 'English' is not a lang",
        ),
        ('["a photo of a {}.", "a drawing of the {}."]', "[]", r", templates: there are none"),
        (
            '"a drawing of the {}."',
            '"a drawing"',
            r", templates 2: the template 'a drawing' must contain {}",
        ),
        (
            '"a drawing of the {}."',
            '"{} and {}"',
            r", templates 2: the template '{} and {}' must contain",
        ),
        ('"a drawing of the {}."', "7", r", templates 2: must be a string .*, not 7$"),
        (
            '"a drawing of the {}."',
            '"a  photo of a {}."',
            r", templates 2: .* is a duplicate of templates 1$",
        ),
        (
            '["something with whiskers", "a long trunk"]',
            '"x"',
            r", in_domain: must be a list of strings",
        ),
        ('"a long trunk"', '""', r", in_domain 2: must not be empty"),
        ('"a long trunk"', '"a\\nb"', r", in_domain 2: .* line break or a control character"),
        (
            '"quarterly revenue"',
            '"a long trunk"',
            r", out_of_domain 1: .* is also an in-domain example",
        ),
        ('name = "cat"', 'nam = "cat"', r", classes 1: unknown key 'nam' \(did you mean name\?\)"),
        ('name = "cat"\n', "", r", classes 1, name: missing$"),
        ('name = "cat"', 'name = ""', r", classes 1, name: must not be empty"),
        ('name = "cat"', 'name = "__"', r", classes 1, name: '__' is not a name"),
        (
            'name = "African elephant"',
            'name = "Cat"',
            r", classes 2, name: 'Cat' is already .* at classes 1, name$",
        ),
        (
            'name = "African elephant"',
            'name = "Kitten"',
            r", classes 2, name: .* at classes 1, synonyms 1$",
        ),
        (
            '["kitten"]',
            '["kitten", "hot-dog"]',
            r", classes 3, name: 'hot dog' is already .* at classes 1, synonyms 2$",
        ),
        (
            '["kitten"]',
            '["cat"]',
            r", classes 1, synonyms 1: 'cat' is already a class or synonym, at classes 1, name$",
        ),
        ('["kitten"]', '"kitten"', r", classes 1, synonyms: must be a list of strings"),
        ('["a sausage in a bun."]', '[" "]', r", classes 3, prompts 1: must not be empty"),
        ("top1 = 0.8", "top1 = 80", r", pass_marks, top1: must be a number from 0 to 1"),
        ("top1 = 0.8", 'top1 = "80 %"', r", pass_marks, top1: must be a number from 0 to 1"),
        ("top1 = 0.8", "top1 = true", r", pass_marks, top1: must be a number from 0 to 1"),
        ("top1 = 0.8", "top2 = 0.8", r", pass_marks: unknown key 'top2' \(did you mean top\d\?\)"),
        (
            "top1 = 0.8",
            "images = 0.5",
            r", pass_marks, images: must be a number of images, at least 1",
        ),
        ("top1 = 0.8", "", r", pass_marks: there are none"),
        ("\n[pass_marks]\ntop1 = 0.8", "", r", pass_marks: there are none"),
    ],
)
def test_names_the_place_of_what_is_wrong(edited: Edit, old: str, new: str, message: str) -> None:
    with pytest.raises(BadDomain, match=r"^small\.toml" + message):
        taxonomy.parse(edited(old, new), "small.toml")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "classes: a taxonomy needs at least two classes, but has 0$"),
        ("classes = []", "classes: a taxonomy needs at least two classes, but has 0$"),
        ('classes = [{ name = "a" }]', "classes: a taxonomy needs at least two .*, but has 1$"),
        ('classes = ["a", "b"]', "classes 1: must be a table$"),
        ('classes = { name = "a" }', "classes: must be a list of tables$"),
        (
            'classes = [{ name = "a" }, { name = "A" }]',
            "classes 2, name: 'A' is already .* at classes 1, name$",
        ),
    ],
)
def test_a_taxonomy_needs_classes(classes: str, message: str) -> None:
    text = f'name = "x"\ntemplates = ["{{}}"]\n{classes}\n[pass_marks]\ntop1 = 1\n'
    with pytest.raises(BadDomain, match=r"^x\.toml, " + message):
        taxonomy.parse(text, "x.toml")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('name = "African elephant"', 'name = "face recognition"', "classes 2, name"),
        ('["kitten"]', '["who is this person"]', "classes 1, synonyms 1"),
        ('"a drawing of the {}."', '"identify the man with a {}"', "templates 2"),
        ('["a sausage in a bun."]', '["track this woman across cameras"]', "classes 3, prompts 1"),
        ('"a long trunk"', '"find photos of my ex by face"', "in_domain 2"),
    ],
)
def test_refuses_what_the_policy_forbids(edited: Edit, old: str, new: str, place: str) -> None:
    with pytest.raises(RefusedByPolicy, match=rf"^small\.toml, {place}: ") as caught:
        taxonomy.parse(edited(old, new), "small.toml")
    assert "model card" in caught.value.hint


def test_a_forbidden_query_may_stand_among_the_examples_from_outside(edited: Edit) -> None:
    domain = taxonomy.parse(edited('"quarterly revenue"', '"who is this person"'), "small.toml")
    assert "who is this person" in domain.out_of_domain


class TestFingerprint:
    def test_is_of_the_meaning(self, small: Domain, edited: Edit) -> None:
        for old, new in [
            ('templates = ["a photo of a {}.",', '# why\ntemplates = [\n  "a photo of a {}.",'),
            (
                '"a photo of a {}.", "a drawing of the {}."',
                "'a drawing of the {}.', \"a photo of a {}.\"",
            ),
            ('description = "three animals"\n', ""),
            ('name = "small"', 'name = "another name"'),
            ("top1 = 0.8", "top1 = 0.80"),
        ]:
            other = taxonomy.parse(edited(old, new), "x")
            assert other.fingerprint == small.fingerprint, new
        windows = taxonomy.parse(edited("top1", "top1").replace("\n", "\r\n"), "x")
        assert windows.fingerprint == small.fingerprint

    def test_changes_with_it(self, small: Domain, edited: Edit) -> None:
        changed = [
            taxonomy.parse(edited(old, new), "x").fingerprint
            for old, new in [
                ("a drawing of", "a sketch of"),
                ('"kitten"', '"tomcat"'),
                ('name = "cat"', 'name = "Cat"'),
                ("a sausage in a bun.", "a sausage."),
                ("a long trunk", "a short trunk"),
                ("quarterly revenue", "yearly revenue"),
                ("top1 = 0.8", "top1 = 0.9"),
                ('name = "small"', 'name = "small"\nlanguage = "de"'),
            ]
        ]
        assert len({small.fingerprint, *changed}) == len(changed) + 1

    def test_does_not_change_with_the_program(self, small: Domain) -> None:
        assert small.fingerprint.startswith("7864d6acbbe19ff0")


class TestFiles:
    def test_reads_a_file(self, small: Domain, edited: Edit, tmp_path: Path) -> None:
        path = tmp_path / "d.toml"
        path.write_text("\ufeff" + edited("top1", "top1"), encoding="utf-8")
        assert taxonomy.load(str(path)) == small

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadDomain, match="there is no domain file") as caught:
            taxonomy.load(str(tmp_path / "everyday"))
        assert "everyday" in caught.value.hint

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadDomain, match="cannot read the domain file"):
            taxonomy.load(str(tmp_path))

    def test_no_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / "d.toml"
        path.write_bytes(b'name = "x"\ndescription = "caf\xe9"\n')
        with pytest.raises(BadDomain, match="line 2: not UTF-8"):
            taxonomy.read(path)

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "d.toml"
        path.write_text("")
        with pytest.raises(BadDomain, match=r"d\.toml, name: missing$"):
            taxonomy.read(path)

    def test_an_unfinished_file(self, tmp_path: Path) -> None:
        path = tmp_path / "d.toml"
        path.write_text('name = "x"\ntemplates = [\n  "a {}",\n')
        with pytest.raises(BadDomain, match="line 3: not valid TOML"):
            taxonomy.read(path)


def test_the_starter_is_a_valid_domain() -> None:
    domain = taxonomy.parse(taxonomy.starter(), "starter.toml")
    assert len(domain.classes) >= 2
    assert domain.in_domain
    assert domain.out_of_domain


class TestEveryday:
    def test_is_what_it_should_be(self) -> None:
        domain = taxonomy.load(taxonomy.DEFAULT)
        assert 300 <= len(domain.classes) <= 360
        assert len(domain.in_domain) >= 150
        assert len(domain.out_of_domain) >= 150
        assert len(domain.templates) >= 3
        assert {"top1", "top5", "mean_per_class_recall", "images"} <= domain.pass_marks.keys()

    def test_its_in_domain_examples_do_more_than_repeat_classes(self) -> None:
        from clipsearch.domain.words import Vocabulary

        domain = taxonomy.load(taxonomy.DEFAULT)
        vocabulary = Vocabulary(domain)
        without = [q for q in domain.in_domain if not vocabulary.classes_named(q)]
        assert len(without) >= 150
        assert not any(domain.find_class(query) is not None for query in domain.in_domain)

    def test_has_the_classes_of_the_sample_pictures(self) -> None:
        samples = SAMPLES
        if not samples.is_dir():
            pytest.skip("no sample_data here")
        domain = taxonomy.load(taxonomy.DEFAULT)
        # The README's first command has left an index there, in a hidden folder.
        names = (folder.name for folder in samples.iterdir() if folder.is_dir())
        folders = [name for name in names if not name.startswith(".")]
        assert folders
        assert [name for name in folders if domain.find_class(name) is None] == []
